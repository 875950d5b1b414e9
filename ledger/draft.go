package ledger

// draft collects the moves of a command that touches several shelves, or one
// shelf several times. It applies each move to the state, so that the next one
// sees it; Decide takes them all back.
type draft struct {
	s       *State
	moves   []Move
	refused *Rejection // the first one; nothing is moved after it
}

// move moves units of a lot on a shelf.
func (d *draft) move(shelf Shelf, lot *Lot, from, to Bucket, quantity int64) {
	if d.refused != nil {
		return
	}
	line, r := d.s.line(shelf, lot.ID, from, to, quantity)
	if r != nil {
		d.refused = r
		return
	}
	d.post(d.s.row(d.s.shelf(shelf), lot), from, to, line)
}

// post adds a line that has been computed.
func (d *draft) post(row *stockRow, from, to Bucket, line Line) {
	stock := row.Stock
	stock.Balances = line.After
	change(d.s, &row.Stock, stock)
	if n := len(d.moves); n > 0 {
		last := &d.moves[n-1]
		if last.Shelf == row.Shelf && last.From == from && last.To == to {
			last.Lines = append(last.Lines, line)
			return
		}
	}
	d.moves = append(d.moves, Move{row.Shelf, from, to, []Line{line}})
}

// carry moves units of a lot from one location to another: two entries, and
// clearing between them.
func (d *draft) carry(from, to Shelf, lot *Lot, source, target Bucket, quantity int64) {
	d.move(from, lot, source, Clearing, quantity)
	d.move(to, lot, Clearing, target, quantity)
}

// allocate moves what a demand is served with.
func (d *draft) allocate(want demand, to Bucket, at Instant) []Line {
	if d.refused != nil {
		return nil
	}
	lines, r := d.s.allocate(want, to, at)
	if r != nil {
		d.refused = r
		return nil
	}
	shelf := d.s.shelf(want.shelf)
	for _, line := range lines {
		d.post(shelf.find(line.Lot), Available, to, line)
	}
	return lines
}

func (d *draft) refuse(r *Rejection) {
	if d.refused == nil {
		d.refused = r
	}
}
