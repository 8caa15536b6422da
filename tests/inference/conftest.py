"""The files of TAPE's tasks."""

from tests.helpers.tape_files import tape_records, write_split, write_task  # noqa: F401
