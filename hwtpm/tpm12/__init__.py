"""The TPM 1.2 language: constants, return codes, structures, commands, authorisation sessions.

Source: TCG TPM Main Specification, Version 1.2, Revision 116 (Part 2 structures, Part 3 commands).
"""
