"""TPMs on SPI: framing of TIS register accesses, quirks of chips, a simulated chip at byte level.

`framing`, `wiring` and `quirks` are pure. `virtual` is the bench without hardware.
"""
