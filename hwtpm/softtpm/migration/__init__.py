"""Moving a TPM 1.2 between our engine and libtpms or swtpm, keys and all.

`libtpms_format` declares what libtpms writes, `libtpms_state` carries it into our `Permanent` and
back, `swtpm_file` is the file that swtpm wraps around it, `move` does it for whole directories.
"""

from hwtpm.softtpm.migration.describe import StateSummary, describe
from hwtpm.softtpm.migration.libtpms_state import export_permanent, import_permanent
from hwtpm.softtpm.migration.move import (
    check_unused,
    export_swtpm,
    import_swtpm,
    read_engine,
    read_swtpm,
    state_files,
)
from hwtpm.softtpm.migration.swtpm_file import FileKey, Kdf, key_from_file, key_from_passphrase

__all__ = [
    "FileKey",
    "Kdf",
    "StateSummary",
    "check_unused",
    "describe",
    "export_permanent",
    "export_swtpm",
    "import_permanent",
    "import_swtpm",
    "key_from_file",
    "key_from_passphrase",
    "read_engine",
    "read_swtpm",
    "state_files",
]
