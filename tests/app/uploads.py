"""Files given to an uploader of a page, in a browser."""

PATIENCE_MS = (40_000, 60_000, 180_000)
"""Of each try; the last is that of every other wait."""


def upload(field, files, expected):
    """Give files until ``expected(timeout)`` holds: what is set while the uploader is drawn anew is lost."""
    for timeout in PATIENCE_MS:
        field.set_input_files(files)
        try:
            expected(timeout)
        except AssertionError:
            if timeout == PATIENCE_MS[-1]:
                raise
        else:
            return
