"""Side-by-side measurements with the peers. `python -m benchmarks NAME` prints a table and writes JSON."""
