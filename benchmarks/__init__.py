"""Side-by-side measurements of our vTPM and swtpm: `python -m benchmarks`. Nothing is asserted."""
