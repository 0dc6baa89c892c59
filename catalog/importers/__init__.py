"""What other programs' benchmarks say, as measurements: one module a format, all of them listed in ``registry``.

A file is read once (``documents``), its format is recognised by what is in it, and each run in it becomes a ``Reading``:
the fields of ``Measurement`` that the file states, in our units. What it does not state the user gives (``completion``).
"""
