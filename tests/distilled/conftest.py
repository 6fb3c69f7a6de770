"""The run folder and the teacher that evaluating is tested with."""

from ..evaluation.conftest import make_run, run_folder, teacher, written

__all__ = ["make_run", "run_folder", "teacher", "written"]
