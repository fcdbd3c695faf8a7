#!/bin/bash
# Real input: every package stanza of `apt-cache dumpavail` (60,000 and more) as one row. Loads it, kills the load half-way with
# SIGKILL, recovers, loads again, dumps, and compares byte for byte with the sorted unique input.
# Usage, from the root after `cargo build --release`: fault-injection/real-input.sh [HAMAL [WORKDIR]]
set -euo pipefail
H=$(realpath "${1:-target/release/hamal}")
W=$(realpath "${2:-$(mktemp -d)}")
mkdir -p "$W"; cd "$W"
IN=$W/input.tsv EXPECT=$W/expected.tsv DB=$W/db.$$
# package<TAB>whole stanza, escaped as TSV; when a package appears twice its last stanza wins (as an upsert does)
apt-cache dumpavail | python3 -c '
import sys
def esc(b):
    s = b.decode("utf-8", "surrogateescape")
    out = []
    for c in s:
        o = ord(c)
        if c == "\t": out.append("\\t")
        elif c == "\n": out.append("\\n")
        elif c == "\r": out.append("\\r")
        elif c == "\\": out.append("\\\\")
        elif 0xdc80 <= o <= 0xdcff: out.append("\\x%02x" % (o - 0xdc00))
        elif o < 32 or 127 <= o < 160 or o == 0xfeff: out.append("".join("\\x%02x" % x for x in c.encode()))
        else: out.append(c)
    return "".join(out).encode()
rows, last = [], {}
for stanza in sys.stdin.buffer.read().split(b"\n\n"):
    if not stanza.startswith(b"Package: "): continue
    name, _, rest = stanza.partition(b"\n")
    row = (name[9:], esc(rest))
    rows.append(row); last[row[0]] = row[1]
with open(sys.argv[1], "wb") as f:
    for k, v in rows: f.write(k + b"\t" + v + b"\n")
with open(sys.argv[2], "wb") as f:
    for k in sorted(last): f.write(k + b"\t" + last[k] + b"\n")
print(f"{len(rows)} rows, {len(last)} packages")
' "$IN" "$EXPECT"
ls -l "$IN" "$EXPECT" | awk '{print $5, $9}'
N=$(wc -l < "$EXPECT"); [ "$N" -ge 60000 ]
echo "== one whole load, for the figure"
"$H" load "$W/whole.$$" pkg "$IN" --json
"$H" load "$W/whole10k.$$" pkg "$IN" --batch 10000 --json
echo "== load, kill -9 half-way"
HALF=$(( $(stat -c %s "$IN") / 2 ))
# the input stalls after half of it: the kill comes while the load waits for more
mkfifo fifo.$$; "$H" load "$DB" pkg - < fifo.$$ & P=$!
exec 9> fifo.$$; head -c "$HALF" "$IN" >&9; sleep 2   # fd 9 stays open: the load sees no end of file
kill -9 $P; wait $P 2>/dev/null || true; exec 9>&-
"$H" verify "$DB"
COUNT=$("$H" trees "$DB" --count --json | tail -1); echo "after kill: $COUNT"
echo "== dump of the crashed database is a prefix of the input (as upserts)"
"$H" dump "$DB" pkg > crashed.tsv
wc -l crashed.tsv
python3 - "$IN" crashed.tsv <<'PY'
import sys
got = open(sys.argv[2], "rb").read().splitlines()
rows = open(sys.argv[1], "rb").read().splitlines()
# whole batches of 1000 rows: some prefix of the input gives exactly this tree
d, ok, want = {}, None, dict(r.split(b"\t", 1) for r in got)
for i, r in enumerate(rows):
    k, v = r.split(b"\t", 1); d[k] = v
    if (i + 1) % 1000 == 0 and len(d) == len(want) and d == want: ok = i + 1; break
assert ok or not want, "the rows after the kill are no prefix of whole batches"
print("prefix of", ok, "rows,", (ok or 0) // 1000, "whole batches")
PY
echo "== recover, load again, dump, compare"
time "$H" recover "$DB"
"$H" load "$DB" pkg "$IN"
time "$H" dump "$DB" pkg -o out.tsv
cmp out.tsv "$EXPECT" && echo "IDENTICAL: $N rows, $(stat -c %s out.tsv) bytes, $(sha256sum < out.tsv)"
for f in csv jsonl; do
  "$H" dump "$DB" pkg -o "out.$f"; "$H" load "$DB" "$f" "out.$f"; "$H" dump "$DB" "$f" | cmp - "$EXPECT" && echo "$f roundtrip identical"
done
"$H" verify "$DB"
