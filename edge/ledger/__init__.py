"""The ledger: a tamper-evident log in C2SP tlog-tiles layout (docs/ledger-format.md).

Pure but for two modules: verify.py reads files, core.py holds the native code.
"""
