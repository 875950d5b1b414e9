#!/usr/bin/env bash
# Compares the API with what was released before: the main branch, or, on main
# itself, the commit before. Says so where there is nothing to compare with.
set -euo pipefail
buf=$1
base=
for candidate in origin/main main HEAD~1; do
    if commit=$(git merge-base HEAD "$candidate" 2>/dev/null) &&
        [ "$commit" != "$(git rev-parse HEAD)" ] &&
        git cat-file -e "$commit:buf.yaml" 2>/dev/null; then
        base=$commit
        break
    fi
done
if [ -z "$base" ]; then
    echo "buf breaking: no earlier version of the API to compare with"
    exit 0
fi
"$buf" breaking --against ".git#ref=$base"
