"""The vTPM manager: secrets of vTPMs in a store that only its chip can open.

Sans-IO but for the store and the chip, which it is given. The connection says who a peer is, never
its requests. One call at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from hwtpm.errors import Busy, HwtpmError, Refused, StateError, TpmError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.cryptography import GetRandomReply
from hwtpm.tpm12.commands.integrity import PcrReadReply
from hwtpm.tpm12.const import DIGEST_SIZE
from hwtpm.tpm12.frame import build_response
from hwtpm.tpm12.rc import Rc
from hwtpm.wire import WireError
from vstack.vtpmmgr import protocol
from vstack.vtpmmgr.evidence import Subject, external_data, group_label
from vstack.vtpmmgr.records import (
    GROUP,
    KEY_SIZE,
    NO_AUTHORITY,
    NO_CONFIG,
    VTPM,
    GroupRecord,
    GroupSecret,
    RootSecret,
    VtpmRecord,
)
from vstack.vtpmmgr.root import ChipIdentity, IdentityKey, RootOfTrust
from vstack.vtpmmgr.store import Header, RecordId, Store, StoreFile

__all__ = ["GroupStatus", "Manager", "ManagerStatus", "Peer"]

_LOG: Final = logging.getLogger(__name__)
_NO_LABEL: Final = bytes(DIGEST_SIZE)
_MOST_RANDOM: Final = 2048  # a TPM may give fewer bytes than asked for, and so may we
_WAY_OUT: Final = "restore the store from a backup, or move it away to start a new manager"

_Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """A bound connection: which vTPM it is for, and the SHA-1 of the label that its domain has."""

    uuid: UUID
    label_hash: bytes


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group: its vTPMs and its identity key, as `RootOfTrust` writes public keys."""

    uuid: UUID
    vtpms: int
    identity_key: bytes
    identity_label: bytes
    identity_binding: bytes


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """The manager at a glance; nothing in it is secret.

    Attributes:
        chip: the chip; its `name` is the fingerprint of the endorsement key.
        manager: the manager's uuid.
        changes: how many changes the store has seen.
        groups: the groups.
        vtpms: how many vTPMs are kept.
        bound: vTPMs that are connected now.
        damaged: vTPMs whose records cannot be read; they are refused until restored or forgotten.
    """

    chip: ChipIdentity
    manager: UUID
    changes: int
    groups: tuple[GroupStatus, ...]
    vtpms: int
    bound: tuple[UUID, ...]
    damaged: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """An open group."""

    uuid: UUID
    key: Secret
    identity: IdentityKey
    identity_auth: Secret
    authority: bytes
    config: bytes


class Manager:
    """A manager on its chip and store; see `open`. The root's errors are described there."""

    def __init__(self, root: RootOfTrust, chip: ChipIdentity, store: Store, group: _Group) -> None:
        self._root = root
        self._chip = chip
        self._store = store
        self._group = group
        self._bound: dict[UUID, Peer] = {}
        self._damaged = self._find_damage()

    @classmethod
    def open(
        cls,
        root: RootOfTrust,
        store_path: Path,
        *,
        create: bool = True,
        take_chip: bool = False,
        random: _Random = os.urandom,
    ) -> Manager:
        """The manager whose store that is, on the chip that sealed it.

        Without a store a new manager is made, and the chip is taken into ownership if it is
        nobody's. A crash in between leaves no store, and the next start takes up the chip as it is.
        Whether chip and store belong together is decided before either is changed.

        Args:
            root: the chip; `close` closes it, a failed `open` does not.
            store_path: the store's file; its directory exists.
            create: make a new manager if there is no store.
            take_chip: a real chip that nobody owns may be taken into ownership; a software one
                always may.
            random: makes n random bytes; they are combined with the chip's.

        Raises:
            StateError: the store is of another chip, damaged, or missing; nothing was changed.
            Busy: another manager uses the store.
            Refused: it would take a real chip that nobody owns.
            TpmError: the chip refuses, for example the owner's or SRK's AuthData.
        """
        file = StoreFile(store_path)
        try:
            chip = root.identity()
            if file.header is not None:
                _check_chip(file, file.header, chip)
            elif not create:
                raise file.damaged(
                    "there is none, and there has been one",
                    "restore it from a backup, or give its vTPMs up: vstack up --new-manager",
                )
            elif chip.real_hardware and not chip.owned and not take_chip:
                raise Refused(
                    f"{chip.address} is a real chip that nobody owns; nothing has been changed",
                    hint="to take it into ownership: vstack up --take-ownership",
                )
            else:
                chip = _make(root, file, random)
            return _open(cls, root, chip, file, random)
        except BaseException:
            file.close()
            raise

    def bind(self, uuid: UUID, label_hash: bytes = _NO_LABEL) -> Peer:
        """A connection of the vTPM with that uuid begins; creates no vTPM.

        Raises:
            Busy: it has one already.
        """
        if uuid in self._bound:
            raise Busy(f"vTPM {uuid} is connected already", hint="end its other connection first")
        peer = Peer(uuid, label_hash)
        self._bound[uuid] = peer
        return peer

    def unbind(self, peer: Peer) -> None:
        """The connection has ended; a second call does nothing."""
        if self._bound.get(peer.uuid) is peer:
            del self._bound[peer.uuid]

    def handle(self, peer: Peer, request: bytes) -> bytes:
        """Answer one request; what it changed is durable when this returns.

        A request that is malformed, refused or fails is answered with a status code, never with an
        exception, and then nothing has been changed.
        """
        asked = protocol.decode_request(request)
        if isinstance(asked, protocol.Refusal):
            return asked.encode()
        if self._bound.get(peer.uuid) is not peer:
            return protocol.refusal_of(asked, Rc.DISABLED).encode()
        try:
            answer = self._serve(peer, asked)
        except TpmError as error:
            _LOG.info("vTPM %s: %s", peer.uuid, error.message)
            answer = error.rc
        except HwtpmError as error:
            _LOG.error("vTPM %s: %s", peer.uuid, error)
            answer = Rc.FAIL
        if isinstance(answer, int):
            return protocol.refusal_of(asked, answer).encode()
        return answer

    def forget(self, uuid: UUID) -> bool:
        """Durably delete what is kept for a vTPM, damaged or not; whether there was anything.

        Raises:
            Busy: it is connected.
            StateError: the store cannot be written.
        """
        if uuid in self._bound:
            raise Busy(f"vTPM {uuid} is connected", hint="stop it first")
        at = self._store.find(VTPM, uuid)
        if at is None:
            return False
        self._store.delete(at)
        self._damaged.discard(uuid)
        return True

    def activate(self, blob: bytes) -> Secret:
        """The TPM_SYMMETRIC_KEY that was encrypted to the chip's endorsement key for the group's
        identity key. Getting it proves that both are in this chip.

        Raises:
            TpmError: it is for another identity key or chip, or malformed.
        """
        return self._root.activate(self._group.identity, self._group.identity_auth, blob)

    def status(self) -> ManagerStatus:
        """The manager at a glance."""
        vtpms = self._store.ids(VTPM)
        identity = self._group.identity
        group = GroupStatus(
            self._group.uuid,
            sum(at.parent == self._group.uuid for at in vtpms),
            identity.public,
            identity.label_digest,
            identity.binding,
        )
        return ManagerStatus(
            self._chip,
            self._store.header.manager,
            self._store.changes,
            (group,),
            len(vtpms),
            tuple(self._bound),
            tuple(sorted(self._damaged)),
        )

    def close(self) -> None:
        """Let go of store and chip; all connections have ended."""
        self._bound.clear()
        self._store.close()
        self._root.close()

    def _serve(self, peer: Peer, asked: protocol.Request) -> bytes | int:
        """The answer's frame, or the status that refuses."""
        match asked:
            case protocol.PassRandom(count):
                data = self._root.random(min(count, _MOST_RANDOM)) if count else b""
                return build_response(GetRandomReply(data).encode())
            case protocol.PassPcrRead(index):
                return build_response(PcrReadReply(self._root.pcr_read(index)).encode())
            case protocol.SaveHashKey(data):
                self._save(peer.uuid, data)
                return protocol.encode_reply()
        at = self._store.find(VTPM, peer.uuid)
        match asked:
            case protocol.GetBootHash():
                return protocol.encode_reply(_NO_LABEL if at is None else peer.label_hash)
            case protocol.LoadHashKey() if at is not None:
                record = VtpmRecord.decode(self._store.get(at, self._group.key))
                return protocol.encode_hash_key(record.data)
            case protocol.QuoteRequest() if at is not None:
                return protocol.encode_reply(self._quote(peer, asked).encode())
        return Rc.BAD_PARAMETER

    def _save(self, uuid: UUID, data: bytes) -> None:
        if uuid in self._damaged:
            # It could not load, so what it saves now is not what followed from its last state.
            raise StateError(
                f"the record of vTPM {uuid} is damaged and is not overwritten",
                hint="restore the store from a backup, or have the manager forget this vTPM",
            )
        record = VtpmRecord(data.ljust(protocol.MAX_HASH_KEY, b"\0"))
        at = RecordId(VTPM, uuid, self._group.uuid)
        self._store.put(at, self._group.key, record.encode())

    def _quote(self, peer: Peer, asked: protocol.QuoteRequest) -> protocol.ManagerQuote:
        group = self._group
        subject = Subject(peer.uuid, peer.label_hash, group.authority, group.config)
        hashes = subject.hashes(asked.flags)
        quoted = self._root.quote(
            group.identity,
            group.identity_auth,
            external_data(asked.flags, asked.nonce, hashes),
            asked.selection.indices,
        )
        return protocol.ManagerQuote(
            asked.nonce, asked.flags, quoted.signature, hashes, quoted.pcrs
        )

    def _find_damage(self) -> set[UUID]:
        damaged = set()
        for at in self._store.ids(VTPM):
            try:
                self._store.get(at, self._group.key)
            except StateError as error:
                _LOG.error("%s", error)
                damaged.add(at.id)
        return damaged


def _check_chip(file: StoreFile, header: Header, chip: ChipIdentity) -> None:
    """Whether that chip can have sealed this store; nothing has been changed yet."""
    if (header.chip_kind, header.chip_name) != (chip.kind, chip.name):
        raise file.damaged(
            f"sealed by another chip: {header.chip_kind} with EK {_short(header.chip_name)},"
            f" this chip ({chip.address}) is {chip.kind} with EK {_short(chip.name)}",
            "attach the chip that belongs to it, or name another store",
        )
    if not chip.owned:
        raise file.damaged(
            f"its chip ({chip.address}, EK {_short(chip.name)}) has been cleared since: it has no"
            " owner, and the key that sealed the store is gone",
            "the chip has not been taken over; move the store away to start a new manager",
        )


def _make(root: RootOfTrust, file: StoreFile, random: _Random) -> ChipIdentity:
    """A new manager: take the chip, make and seal its secrets, write its store in one piece."""

    def fresh(size: int) -> bytes:
        # Neither generator alone decides.
        pairs = zip(root.random(size), random(size), strict=True)
        return bytes(ours ^ theirs for ours, theirs in pairs)

    chip = root.take()
    manager = UUID(bytes=fresh(16), version=4)
    group = UUID(bytes=fresh(16), version=4)
    root_key, identity_auth = fresh(KEY_SIZE), fresh(DIGEST_SIZE)
    secret = GroupSecret(manager.bytes, group.bytes, identity_auth, fresh(KEY_SIZE))
    sealed_root = root.seal(Secret(RootSecret(manager.bytes, root_key).encode()))
    sealed_group = root.seal(Secret(secret.encode()))
    identity = root.make_identity(group_label(manager, group), Secret(identity_auth))
    record = GroupRecord(
        sealed_group,
        identity.wrapped,
        identity.public,
        identity.label_digest,
        identity.binding,
        NO_AUTHORITY,
        NO_CONFIG,
    )
    header = Header(manager, chip.kind, chip.name, sealed_root)
    first = {RecordId(GROUP, group): (Secret(root_key), record.encode())}
    Store.create(file, header, Secret(root_key), first, random)
    _LOG.info("new manager %s on %s, store %s", manager, chip.address, file.path)
    return chip


def _open(
    make: type[Manager], root: RootOfTrust, chip: ChipIdentity, file: StoreFile, random: _Random
) -> Manager:
    """The manager of a store that is this chip's."""
    if file.header is None:
        raise file.damaged("it vanished while it was opened")
    manager = file.header.manager.bytes
    try:
        root_secret = RootSecret.decode(_unseal(root, file, file.header.sealed_root))
        if root_secret.manager != manager:
            raise file.damaged("its header names another manager than its sealed secret", _WAY_OUT)
        root_key = Secret(root_secret.key)
        store = Store(file, root_key, random)
        (at,) = store.ids(GROUP)
        record = GroupRecord.decode(store.get(at, root_key))
        secret = GroupSecret.decode(_unseal(root, file, record.sealed))
    except (WireError, ValueError) as error:
        raise file.damaged(f"its contents are not those of a manager: {error}", _WAY_OUT) from error
    if (secret.manager, secret.group) != (manager, at.id.bytes):
        raise file.damaged("its group belongs to another manager", _WAY_OUT)
    group = _Group(
        at.id,
        Secret(secret.key),
        IdentityKey(
            record.identity_wrapped,
            record.identity_public,
            record.identity_label,
            record.identity_binding,
        ),
        Secret(secret.identity_auth),
        record.authority,
        record.config,
    )
    return make(root, chip, store, group)


def _unseal(root: RootOfTrust, file: StoreFile, blob: bytes) -> bytes:
    try:
        return root.unseal(blob).reveal()
    except StateError as error:
        raise file.damaged(error.message, error.hint or _WAY_OUT) from error


def _short(name: str) -> str:
    return f"{name[:16]}.." if name else "none"
