"""libtpms as a software TPM, 1.2 or 2.0, in this process.

Source: the C interface of libtpms 0.6 and later (tpm_library.h, tpm_nvfilename.h). The library
keeps its TPM in globals: a process has one at most, of whichever family.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import POINTER, byref
from typing import TYPE_CHECKING, Final

from hwtpm.errors import Busy, DeviceNotFound, StateError, UsageError
from hwtpm.softtpm.base import Family, StateName, Storage
from hwtpm.softtpm.peer import checked_response, failure, is_locality, refusal
from hwtpm.tpm12.rc import Rc

if TYPE_CHECKING:
    from ctypes import _Pointer

__all__ = ["LibtpmsTpm"]

_LIBRARY: Final = "libtpms.so.0"
_VERSIONS: Final = {Family.TPM12: 0, Family.TPM20: 1}  # TPMLIB_TPM_VERSION_*
_STATE_VOLATILE: Final = 2
_BLOBS: Final = {b"permall": StateName.PERMANENT, b"savestate": StateName.SAVED}

# The library's globals are the process's, so what guards them has to be as well.
_one_per_process = threading.Lock()

_u8 = ctypes.c_ubyte
_u32 = ctypes.c_uint32
_u8_p = POINTER(_u8)

_Init = ctypes.CFUNCTYPE(_u32)
_LoadData = ctypes.CFUNCTYPE(_u32, POINTER(_u8_p), POINTER(_u32), _u32, ctypes.c_char_p)
_StoreData = ctypes.CFUNCTYPE(_u32, _u8_p, _u32, _u32, ctypes.c_char_p)
_DeleteName = ctypes.CFUNCTYPE(_u32, _u32, ctypes.c_char_p, _u8)
_GetLocality = ctypes.CFUNCTYPE(_u32, POINTER(_u32), _u32)
_GetPresence = ctypes.CFUNCTYPE(_u32, _u8_p, _u32)


class _Callbacks(ctypes.Structure):
    _fields_ = (
        ("size_of_struct", ctypes.c_int),
        ("nvram_init", _Init),
        ("nvram_loaddata", _LoadData),
        ("nvram_storedata", _StoreData),
        ("nvram_deletename", _DeleteName),
        ("io_init", _Init),
        ("io_getlocality", _GetLocality),
        ("io_getphysicalpresence", _GetPresence),
    )


_PROTOTYPES: Final[dict[str, tuple[object, ...]]] = {
    "TPMLIB_GetVersion": (),
    "TPMLIB_ChooseTPMVersion": (ctypes.c_int,),
    "TPMLIB_RegisterCallbacks": (POINTER(_Callbacks),),
    "TPMLIB_MainInit": (),
    "TPMLIB_CancelCommand": (),
    "TPMLIB_Process": (POINTER(_u8_p), POINTER(_u32), POINTER(_u32), ctypes.c_char_p, _u32),
    "TPM_IO_Hash_Start": (),
    "TPM_IO_Hash_Data": (ctypes.c_char_p, _u32),
    "TPM_IO_Hash_End": (),
    "TPM_IO_TpmEstablished_Get": (_u8_p,),
    "TPM_IO_TpmEstablished_Reset": (),
    "TPMLIB_GetState": (ctypes.c_int, POINTER(_u8_p), POINTER(_u32)),
    "TPMLIB_SetState": (ctypes.c_int, ctypes.c_char_p, _u32),
    "TPM_Malloc": (POINTER(_u8_p), _u32),
}


def _load_library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, arguments in _PROTOTYPES.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = _u32
        library.TPMLIB_Terminate.restype = None
        library.TPM_Free.argtypes = (_u8_p,)
        library.TPM_Free.restype = None
    except (OSError, AttributeError) as error:
        raise DeviceNotFound(
            f"libtpms: cannot use {_LIBRARY}: {error}",
            hint="install the Debian package libtpms0 (0.6 or later), or use another engine",
        ) from error
    return library


class LibtpmsTpm:
    """A `SoftwareTpm` whose engine is libtpms and whose state is in `storage`.

    Raises:
        DeviceNotFound: libtpms is not installed.
        Busy: this process already has one that is not closed.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        family: Family = Family.TPM12,
        physical_presence: bool = False,
    ) -> None:
        self.family = family
        self.physical_presence = physical_presence  # the hardware signal, read at every command
        self._storage = storage
        self._locality = 0
        self._powered = False
        self._measuring = False
        self._open = False
        self._fault: BaseException | None = None
        self._response = _u8_p()
        self._response_size = _u32()
        self._callbacks = _Callbacks(
            ctypes.sizeof(_Callbacks),
            _Init(lambda: 0),
            _LoadData(self._on_load),
            _StoreData(self._on_store),
            _DeleteName(self._on_delete),
            _Init(lambda: 0),
            _GetLocality(self._on_get_locality),
            _GetPresence(self._on_get_presence),
        )
        self._library = _load_library()
        version = int(self._library.TPMLIB_GetVersion())
        self._description = f"libtpms {version >> 16}.{version >> 8 & 0xFF}.{version & 0xFF}"
        if family is not Family.TPM12:
            self._description += f" as {family}"
        if not _one_per_process.acquire(blocking=False):
            raise Busy(
                f"{self._description}: this process already has its one libtpms TPM",
                hint="close that one, use another process, or use the engine or swtpm",
            )
        self._open = True

    @property
    def description(self) -> str:
        """`libtpms`, its version, and the family if it is not TPM 1.2."""
        return self._description

    def power_on(self) -> None:
        """See `SoftwareTpm.power_on`; a storage's own error is raised as it is."""
        standby = None
        if self.family is Family.TPM20:
            standby = self._storage.load(StateName.STANDBY)
            # It is good for one start: a second one from it would repeat nonces.
            self._storage.delete(StateName.STANDBY)
        self._start(standby)

    def stand_by(self) -> None:
        """See `StandbyTpm.stand_by`; only a TPM 2.0 does."""
        self._storage.store(StateName.STANDBY, self.export_volatile())

    def _start(self, volatile: bytes | None = None) -> None:
        self._require_open()
        self._power_off()
        rc = self._call("TPMLIB_ChooseTPMVersion", _VERSIONS[self.family])
        self._check(rc, f"be a {self.family}")
        self._check(
            self._call("TPMLIB_RegisterCallbacks", byref(self._callbacks)), "register callbacks"
        )
        try:
            if volatile is not None:
                rc = self._call("TPMLIB_SetState", _STATE_VOLATILE, volatile, len(volatile))
                self._check(rc, "take over the volatile state")
            self._check(self._call("TPMLIB_MainInit"), "start from its stored state")
        except BaseException:
            self._library.TPMLIB_Terminate()
            raise
        self._powered = True

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """See `SoftwareTpm.execute`.

        Raises:
            UsageError: it is not powered on.
            Exception: whatever the storage raised; the TPM answered the command with TPM_FAIL.
        """
        self._require_power()
        if (refused := refusal(command, locality, self.family)) is not None:
            return refused
        self._locality = locality
        size = _u32()
        rc = self._call(
            "TPMLIB_Process",
            byref(self._response),
            byref(size),
            byref(self._response_size),
            bytes(command),
            len(command),
        )
        if rc or not self._response:
            return failure(self.family, rc or Rc.FAIL)
        return checked_response(ctypes.string_at(self._response, size.value), self._description)

    def cancel(self) -> None:
        """See `CancellableTpm.cancel`; a TPM 1.2 takes no notice."""
        self._require_power()
        # Not through _call: that gathers what the callbacks of the other thread's command raised.
        self._library.TPMLIB_CancelCommand()

    @property
    def established(self) -> bool:
        """See `SoftwareTpm.established`."""
        self._require_power()
        flag = _u8()
        self._check(self._call("TPM_IO_TpmEstablished_Get", byref(flag)), "read established")
        return bool(flag.value)

    def reset_established(self, locality: int) -> int:
        """See `SoftwareTpm.reset_established`."""
        self._require_power()
        if not is_locality(locality):
            return Rc.BAD_LOCALITY
        self._locality = locality
        return self._call("TPM_IO_TpmEstablished_Reset")

    def hash_start(self) -> None:
        """See `SoftwareTpm.hash_start`."""
        self._require_power()
        self._measuring = self._hash("TPM_IO_Hash_Start") == 0

    def hash_data(self, data: bytes) -> None:
        """See `SoftwareTpm.hash_data`; ignored outside a measurement, as on the bus."""
        self._require_power()
        # Outside a measurement libtpms would go into failure mode, which a bus cycle never does.
        if self._measuring:
            self._hash("TPM_IO_Hash_Data", bytes(data), len(data))

    def hash_end(self) -> None:
        """See `SoftwareTpm.hash_end`; ignored outside a measurement, as on the bus."""
        self._require_power()
        if self._measuring:
            self._measuring = False
            self._hash("TPM_IO_Hash_End")

    def export_volatile(self) -> bytes:
        """See `MovableTpm.export_volatile`."""
        self._require_power()
        if self._measuring:
            raise Busy(
                f"{self._description}: a launch is being measured",
                hint="export the state after its TPM_HASH_END",
            )
        blob, size = _u8_p(), _u32()
        rc = self._call("TPMLIB_GetState", _STATE_VOLATILE, byref(blob), byref(size))
        self._check(rc, "give its volatile state")
        try:
            return ctypes.string_at(blob, size.value)
        finally:
            self._library.TPM_Free(blob)

    def import_volatile(self, blob: bytes) -> None:
        """See `MovableTpm.import_volatile`."""
        self._start(bytes(blob))

    def close(self) -> None:
        """See `SoftwareTpm.close`; closing twice is allowed."""
        if not self._open:
            return
        self._power_off()
        self._library.TPM_Free(self._response)
        self._response = _u8_p()
        self._open = False
        _one_per_process.release()

    def _power_off(self) -> None:
        self._measuring = False
        if self._powered:
            self._powered = False
            self._library.TPMLIB_Terminate()

    def _require_open(self) -> None:
        if not self._open:
            raise UsageError(f"{self._description}: it is closed", hint="open a new one")

    def _require_power(self) -> None:
        self._require_open()
        if not self._powered:
            raise UsageError(f"{self._description}: it is off", hint="call power_on first")

    def _hash(self, name: str, *arguments: object) -> int:
        self._locality = 4
        return self._call(name, *arguments)

    def _check(self, rc: int, what: str) -> None:
        if rc:
            raise StateError(
                f"{self._description}: could not {what} (return code {rc:#x})",
                hint="restore the state from a backup; nothing was overwritten",
            )

    def _call(self, name: str, *arguments: object) -> int:
        """Call into the library; what a callback raised in the meantime is raised here."""
        rc = int(getattr(self._library, name)(*arguments))
        if (fault := self._fault) is not None:
            self._fault = None
            raise fault
        return rc

    def _guard(self, action: Callable[[], int]) -> int:
        # An exception cannot pass through C frames: keep the first one for _call.
        try:
            return action()
        except BaseException as error:
            self._fault = self._fault or error
            return Rc.FAIL

    # What follows is called by libtpms. Its pointers are good for the time of the call only.

    def _on_load(
        self, data: _Pointer[_Pointer[_u8]], length: _Pointer[_u32], _number: int, name: bytes
    ) -> int:
        def load() -> int:
            state = _BLOBS.get(name)
            blob = None if state is None else self._storage.load(state)
            if blob is None:
                return Rc.RETRY  # libtpms' word for "there is none"
            buffer = _u8_p()
            # libtpms frees the buffer, so it has to come from its allocator.
            if rc := int(self._library.TPM_Malloc(byref(buffer), len(blob))):
                return rc
            ctypes.memmove(buffer, blob, len(blob))
            data[0] = buffer
            length[0] = _u32(len(blob))
            return 0

        return self._guard(load)

    def _on_store(self, data: _Pointer[_u8], length: int, _number: int, name: bytes) -> int:
        def store() -> int:
            if (state := _BLOBS.get(name)) is not None:
                self._storage.store(state, ctypes.string_at(data, length))
            return 0

        return self._guard(store)

    def _on_delete(self, _number: int, name: bytes, must_exist: int) -> int:
        def delete() -> int:
            if (state := _BLOBS.get(name)) is None:
                return 0
            if must_exist and self._storage.load(state) is None:
                return Rc.FAIL
            self._storage.delete(state)
            return 0

        return self._guard(delete)

    def _on_get_locality(self, locality: _Pointer[_u32], _number: int) -> int:
        locality[0] = _u32(self._locality)
        return 0

    def _on_get_presence(self, presence: _Pointer[_u8], _number: int) -> int:
        presence[0] = _u8(self.physical_presence)
        return 0
