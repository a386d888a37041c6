"""The exception tree.

::

    ReelbookError                 everything a user can meet; str() is one clear sentence
    ├── ParameterError            a parameter is misspelt, missing or of the wrong type
    ├── ContractError             a notebook's inputs and outputs do not fit the workflow
    ├── ScrapError                a published value is missing or cannot be published
    ├── StageError                a stage failed; carries stage, notebook, cell
    ├── DataError                 the data cannot be used; carries where (file, row, column)
    │   ├── ArrayError            an array cannot be used; a ValueError and TypeError too
    │   └── RecordIOError         a file is not the recordIO-protobuf it should be
    ├── ModelError                a model or its artifact cannot be used
    ├── StorageError              an S3 location cannot be read or written; carries uri
    ├── ConnectionFailed          the target (AWS or the local AWS) cannot be reached
    │   └── ServiceUnavailable    it does not answer now, and may a little later
    └── JobFailed                 a SageMaker job failed; carries job, reason, log_lines

Each says what was wrong and where; ``hint`` says what to do next.  A command prints ``str(error)``
and no traceback; everything else that escapes is a bug of ours.
"""

from __future__ import annotations


class ReelbookError(Exception):
    """Base of all errors a user can meet.

    Parameters
    ----------
    message : str
        One sentence: what was wrong and where.
    hint : str, optional
        One sentence: what to do next.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback: the cell's line, and the sentence."""
        from traceback import walk_tb

        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        lines = [
            number
            for frame, number in walk_tb(self.__traceback__)
            if "ipykernel_" in frame.f_code.co_filename
        ]
        where = [f"Cell In[{shell.execution_count}], line {lines[0]}"] if shell and lines else []
        return [*where, f"{type(self).__name__}: {self}"]


class ParameterError(ReelbookError):
    """A parameter is misspelt, missing or of the wrong type."""


class ContractError(ReelbookError):
    """A notebook's inputs and outputs do not fit the workflow."""


class ScrapError(ReelbookError):
    """A published value is missing or cannot be published."""


class StageError(ReelbookError):
    """A stage failed.

    Attributes
    ----------
    stage : str
        The stage's name, such as ``03_train``.
    cell : int or None
        The failing cell's number, counted from 1 over all cells; None where no cell failed.
    """

    def __init__(self, message: str, *, stage: str, cell: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stage = stage
        self.cell = cell


class DataError(ReelbookError):
    """The data cannot be used."""


class ArrayError(DataError, ValueError, TypeError):
    """An array given by Python code cannot be used.

    It is a ValueError and a TypeError too: what numpy and scikit-learn raise for the same.
    """


class RecordIOError(DataError):
    """A file is not the recordIO-protobuf it should be."""


class ModelError(ReelbookError):
    """A model or its artifact cannot be used."""


class StorageError(ReelbookError):
    """An S3 location cannot be read or written.

    Attributes
    ----------
    uri : str
        The S3 URI in question.
    """

    def __init__(self, message: str, *, uri: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.uri = uri


class ConnectionFailed(ReelbookError):
    """The target (AWS or the local AWS) cannot be reached."""


class ServiceUnavailable(ConnectionFailed):
    """The target does not answer now; it may a little later, so that the runner tries the stage again."""


class JobFailed(ReelbookError):
    """A SageMaker job failed, was stopped or could not be submitted.

    Attributes
    ----------
    job : str
        The job's name.
    reason : str
        SageMaker's FailureReason, or the error of the submission.
    log_lines : list of str
        The last lines of the job's log, oldest first.
    """

    def __init__(
        self, message: str, *, job: str, reason: str = "", log_lines: list[str] | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.job = job
        self.reason = reason
        self.log_lines = log_lines or []


def did_you_mean(name: str, known: list[str]) -> str:
    """Return ``did you mean `x`?`` for the known name nearest to ``name``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""
