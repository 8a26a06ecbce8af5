"""A real archiver process for tests: started, waited for, ended by its id; its log is read."""

from pathlib import Path

from tests.learner_process import LearnerProcess


class ArchiverProcess(LearnerProcess):
    """`python -m cluster_app archiver`; what it writes goes to files in `folder`."""

    role = "archiver"

    def __init__(self, folder: Path, journal: str, history: str, *flags: str) -> None:
        super().__init__(
            folder, journal, f"sqlite:///{folder / 'none.db'}", "--history", history, *flags
        )
