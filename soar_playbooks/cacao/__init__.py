"""The subset of OASIS CACAO Security Playbooks 2.0 that lachan runs: read, lint, evaluate, sign and verify.

Everything outside the subset is refused when the file is loaded, with file and step, so that nothing is ever skipped
silently at run time.
"""
