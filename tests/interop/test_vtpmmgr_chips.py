"""The manager on libtpms and on our engine; its evidence checked with other means than ours."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from vtpmmgr_chip import Blobs, Maker, Wire, powered

from hwtpm.client import identity as privacy_ca
from hwtpm.client import keys, owner, pcr
from hwtpm.client.info import limits
from hwtpm.client.rsa import to_public_key
from hwtpm.client.session import Tpm
from hwtpm.errors import BusError, StateError, TpmError, VerificationError
from hwtpm.secret import Secret
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.tpm12.commands import TABLE
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey, SymmetricKey
from vstack.vtpmmgr.evidence import Subject, group_label, verify_quote
from vstack.vtpmmgr.manager import Manager, Peer
from vstack.vtpmmgr.protocol import ManagerClient, ManagerQuote, QuoteFlag
from vstack.vtpmmgr.records import NO_AUTHORITY, NO_CONFIG
from vstack.vtpmmgr.root12 import Tpm12Root
from vstack.vtpmmgr.store import StoreFile

ALICE = UUID("11111111-2222-4333-8444-555555555555")
LABEL = hashlib.sha1(b"system_u:system_r:domU_t").digest()
OWNER_AUTH = Secret.auth_from_text("owner")
SRK_AUTH = Secret.auth_from_text("srk")


def root(wire: Wire, **auths: Secret) -> Tpm12Root:
    return Tpm12Root(Tpm(wire), **({"owner_auth": OWNER_AUTH, "srk_auth": SRK_AUTH} | auths))  # type: ignore[arg-type]


def client(manager: Manager, peer: Peer) -> ManagerClient:
    return ManagerClient(lambda request: manager.handle(peer, request))


def disk(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


@dataclass(frozen=True)
class Made:
    """A store and its chip after a first start; what was sent, and the states of the chip."""

    store: bytes
    chip: Blobs
    sent: list[int]
    states: list[Blobs]


@pytest.fixture(scope="module", params=[LibtpmsTpm, Engine], ids=["libtpms", "engine"])
def maker(request: pytest.FixtureRequest) -> Maker:
    return request.param


@pytest.fixture(scope="module")
def made(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("made") / "manager.db"
    with powered(maker) as wire:
        with closing(Manager.open(root(wire), path)) as manager:
            client(manager, manager.bind(ALICE)).save_hash_key(b"a" * 64)
        return Made(path.read_bytes(), wire.states[-1], wire.sent, wire.states)


@pytest.fixture
def path(tmp_path: Path, made: Made) -> Path:
    path = tmp_path / "manager.db"
    path.write_bytes(made.store)
    return path


@pytest.fixture
def chip(maker: Maker, made: Made) -> Iterator[Wire]:
    with powered(maker, made.chip) as wire:
        yield wire


def test_first_start_follows_the_reference_sequence(made: Made) -> None:
    names = [TABLE.name_of(ordinal) for ordinal in made.sent]
    once = list(dict.fromkeys(names))
    lasting = [
        "TPM_CreateEndorsementKeyPair",
        "TPM_TakeOwnership",
        "TPM_DisablePubekRead",
        "TPM_Seal",
        "TPM_MakeIdentity",
        "TPM_Unseal",
    ]
    assert [name for name in once if name in lasting] == lasting
    assert once[1] == "TPM_ContinueSelfTest"
    assert names.count("TPM_TakeOwnership") == 1


def test_a_restart_keeps_secrets_and_identity_and_sends_nothing_that_lasts(
    path: Path, chip: Wire, made: Made
) -> None:
    with closing(Manager.open(root(chip), path)) as manager:
        first = manager.status()
        assert client(manager, manager.bind(ALICE)).load_hash_key() == b"a" * 64
    assert chip.states[-1] == made.chip
    with closing(Manager.open(root(chip), path)) as manager:
        assert manager.status() == first
    assert first.chip.name == hashlib.sha256(first.chip.endorsement_key).hexdigest()
    assert first.vtpms == 1


def test_a_crash_after_any_lasting_step_is_taken_up_at_the_next_start(
    tmp_path: Path, maker: Maker, made: Made
) -> None:
    states = made.states
    assert len(states) >= 3  # endorsement key, owner, no reading of the endorsement key
    for number, blobs in enumerate(states):
        path = tmp_path / f"{number}.db"
        with powered(maker, blobs) as wire, closing(Manager.open(root(wire), path)) as manager:
            vtpm = client(manager, manager.bind(ALICE))
            assert vtpm.load_hash_key() is None
            vtpm.save_hash_key(b"b" * 64)
            assert vtpm.load_hash_key() == b"b" * 64


def test_a_cable_pulled_at_any_command_of_a_start_leaves_all_as_it_was(
    path: Path, chip: Wire, made: Made
) -> None:
    chip.sent.clear()
    Manager.open(root(chip), path).close()
    total = len(chip.sent)
    before = disk(path.parent)
    for cut in range(total - 1):
        chip.sent.clear()
        chip.cut_after = cut
        with pytest.raises(BusError):
            Manager.open(root(chip), path).close()
    chip.cut_after = None
    assert disk(path.parent) == before
    assert chip.states[-1] == made.chip
    # The sessions that were cut off are flushed, however many there were.
    Manager.open(root(chip), path).close()
    assert keys.loaded_handles(Tpm(chip), ResourceType.AUTH) == ()


def test_another_chip_is_refused_and_neither_side_is_changed(path: Path, maker: Maker) -> None:
    before = path.read_bytes()
    with powered(maker) as other:
        theirs = Tpm(other)
        ek = owner.create_ek(theirs)
        owner.read_ek(theirs)  # audited by default: the first one moves the audit counter
        state = other.states[-1]
        name = hashlib.sha256(ek.encode()).hexdigest()
        with pytest.raises(StateError, match=rf"another chip.*{name[:16]}") as refusal:
            Manager.open(root(other), path)
        assert str(path) in refusal.value.message
        assert "other store" in refusal.value.hint or "another store" in refusal.value.hint
        assert other.states[-1] == state
        owner.take_ownership(theirs, OWNER_AUTH, SRK_AUTH)
        state = other.states[-1]
        with pytest.raises(StateError, match="another chip"):
            Manager.open(root(other), path)
        assert other.states[-1] == state
    assert path.read_bytes() == before


def test_a_new_chip_without_endorsement_key_is_not_taken_over_for_an_existing_store(
    path: Path, maker: Maker
) -> None:
    with powered(maker) as new:
        with pytest.raises(StateError, match="EK none"):
            Manager.open(root(new), path)
        assert TABLE["TPM_CreateEndorsementKeyPair"].ordinal not in new.sent
        assert TABLE["TPM_TakeOwnership"].ordinal not in new.sent


def test_a_cleared_chip_is_not_taken_over_and_the_store_stays(
    path: Path, maker: Maker, chip: Wire
) -> None:
    before = path.read_bytes()
    owner.owner_clear(Tpm(chip), OWNER_AUTH)
    with powered(maker, chip_after_clear(chip)) as cleared:
        with pytest.raises(StateError, match="cleared since"):
            Manager.open(root(cleared), path)
        assert TABLE["TPM_TakeOwnership"].ordinal not in cleared.sent
    assert path.read_bytes() == before


def chip_after_clear(chip: Wire) -> Blobs:
    """The cleared chip's state, enabled again and with its power cut."""
    tpm = Tpm(chip)
    owner.assert_presence(tpm)
    owner.physical_enable(tpm)
    owner.physical_set_deactivated(tpm, deactivated=False)
    chip.tpm.close()
    return chip.states[-1]


def test_a_chip_with_a_new_owner_does_not_open_the_store(
    path: Path, maker: Maker, chip: Wire
) -> None:
    before = path.read_bytes()
    owner.owner_clear(Tpm(chip), OWNER_AUTH)
    with powered(maker, chip_after_clear(chip)) as cleared:
        owner.take_ownership(Tpm(cleared), OWNER_AUTH, SRK_AUTH)
        with pytest.raises(StateError, match="does not open"):
            Manager.open(root(cleared), path)
    assert path.read_bytes() == before


def test_any_flipped_byte_of_the_sealed_root_is_a_state_error(path: Path, chip: Wire) -> None:
    with closing(StoreFile(path)) as file:
        assert file.header is not None
        sealed = file.header.sealed_root
    unsealing = root(chip)
    for at in range(len(sealed)):
        with pytest.raises(StateError, match="does not open"):
            unsealing.unseal(sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE header SET sealed_root = zeroblob(312)")
    with pytest.raises(StateError, match=str(path)):
        Manager.open(unsealing, path)


@pytest.mark.parametrize("auth", ["owner_auth", "srk_auth"])
def test_a_wrong_password_is_the_chips_refusal_and_changes_nothing(
    path: Path, chip: Wire, auth: str
) -> None:
    wrong = {auth: Secret.auth_from_text("wrong")}
    fresh = path.with_name("fresh.db")
    for store in (path, fresh):
        with pytest.raises(TpmError) as refusal:
            Manager.open(root(chip, **wrong), store)
        assert refusal.value.rc in (Rc.AUTHFAIL, Rc.AUTH2FAIL)
    assert not fresh.exists()
    with closing(Manager.open(root(chip), path)) as manager:
        assert client(manager, manager.bind(ALICE)).load_hash_key() == b"a" * 64


def test_many_refused_commands_leave_room_for_the_next(path: Path, chip: Wire) -> None:
    with closing(Manager.open(root(chip), path)) as manager:
        vtpm = client(manager, manager.bind(ALICE))
        for _ in range(20):  # more than there are sessions
            with pytest.raises(TpmError):
                manager.activate(b"no credential")
        with pytest.raises(TpmError):  # one wrong password only: the chip counts them
            manager._root.quote(manager._group.identity, Secret(b"x" * 20), bytes(20), [0])
        vtpm.get_quote(bytes(20))
        assert keys.loaded_handles(Tpm(chip), ResourceType.AUTH) == ()


def test_the_identity_key_stays_loaded_and_is_loaded_again_if_somebody_flushes_it(
    path: Path, chip: Wire
) -> None:
    load = TABLE["TPM_LoadKey2"].ordinal
    with closing(Manager.open(root(chip), path)) as manager:
        vtpm = client(manager, manager.bind(ALICE))
        chip.sent.clear()
        for _ in range(3):
            vtpm.get_quote(bytes(20))
        assert chip.sent.count(load) == 1
        keys.flush_all(Tpm(chip))
        vtpm.get_quote(bytes(20))
        assert chip.sent.count(load) == 2
    assert keys.loaded_handles(Tpm(chip)) == ()


def test_the_identity_key_gives_way_when_slots_are_short(path: Path, chip: Wire) -> None:
    tpm = Tpm(chip)
    with closing(Manager.open(root(chip), path)) as manager:
        vtpm = client(manager, manager.bind(ALICE))
        others = keys.create(tpm, keys.srk(SRK_AUTH), keys.signing_key(bits=512))
        # Fill all slots but one, so that the identity key takes the last.
        for _ in range(limits(tpm).key_slots_free or 0):
            last = keys.load(tpm, keys.srk(SRK_AUTH), others)
        keys.flush(tpm, last.handle)
        before = keys.loaded_handles(tpm)
        vtpm.get_quote(bytes(20))
        assert keys.loaded_handles(tpm) == before


QUOTED = (0, 7, 16, 23)


@pytest.mark.parametrize("flags", [QuoteFlag(0), QuoteFlag(15), *QuoteFlag])
def test_a_quote_verifies_with_nothing_but_cryptography(
    quoting: Callable[[QuoteFlag], tuple[ManagerQuote, PubKey]], flags: QuoteFlag
) -> None:
    quote, aik = quoting(flags)
    all_hashes = [
        hashlib.sha1(ALICE.bytes).digest(),
        hashlib.sha1(LABEL).digest(),
        hashlib.sha1(bytes(256) + bytes(16)).digest(),
        hashlib.sha1(bytes(256)).digest(),
    ]
    expected = [digest for bit, digest in enumerate(all_hashes) if flags >> bit & 1]
    assert list(quote.hashes) == expected
    external = hashlib.sha1(struct.pack("<I", flags) + b"n" * 20 + b"".join(expected)).digest()
    values = b"".join(quote.pcrs[index] for index in QUOTED)
    select = sum(1 << index for index in QUOTED).to_bytes(3, "little")
    composite = hashlib.sha1(struct.pack(">H3sI", 3, select, len(values)) + values).digest()
    signed = bytes((1, 1, 0, 0)) + b"QUOT" + composite + external
    modulus = int.from_bytes(aik.encode()[-256:], "big")
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    key.verify(quote.signature, signed, padding.PKCS1v15(), hashes.SHA1())


@pytest.fixture
def quoting(path: Path, chip: Wire) -> Iterator[Callable[[QuoteFlag], tuple[ManagerQuote, PubKey]]]:
    pcr.extend(Tpm(chip), 16, b"e" * 20)
    with closing(Manager.open(root(chip), path)) as manager:
        vtpm = client(manager, manager.bind(ALICE, LABEL))
        aik = PubKey.decode(manager.status().groups[0].identity_key)
        yield lambda flags: (vtpm.get_quote(b"n" * 20, QUOTED, flags), aik)


def test_evidence_accepts_the_truth_and_names_each_lie(
    quoting: Callable[[QuoteFlag], tuple[ManagerQuote, PubKey]],
) -> None:
    quote, aik = quoting(QuoteFlag(15))
    alice = Subject(ALICE, LABEL, NO_AUTHORITY, NO_CONFIG)
    pcrs = verify_quote(aik, b"n" * 20, quote, alice, require=QuoteFlag(15))
    assert tuple(pcrs) == QUOTED
    assert pcrs[16] == hashlib.sha1(bytes(20) + b"e" * 20).digest()
    mallory = Subject(UUID(int=1), LABEL, NO_AUTHORITY, NO_CONFIG)
    unlabelled = Subject(ALICE, bytes(20), NO_AUTHORITY, NO_CONFIG)
    with pytest.raises(VerificationError, match="nonce"):
        verify_quote(aik, b"o" * 20, quote, alice)
    with pytest.raises(VerificationError, match="VTPM_UUID"):
        verify_quote(aik, b"n" * 20, quote, mallory)
    with pytest.raises(VerificationError, match="LABEL"):
        verify_quote(aik, b"n" * 20, quote, unlabelled)

    def forged(**changes: object) -> ManagerQuote:
        fields = {name: getattr(quote, name) for name in quote.__slots__}
        return ManagerQuote(**(fields | changes))

    lies = [
        forged(pcrs=dict(quote.pcrs) | {0: b"\1" * 20}),
        forged(pcrs={index: quote.pcrs[index] for index in QUOTED[1:]}),
        forged(hashes=quote.hashes[::-1]),
        forged(hashes=quote.hashes[:-1], flags=QuoteFlag(7)),
        forged(signature=bytes(256)),
        forged(signature=b""),
    ]
    for lie in lies:
        with pytest.raises(VerificationError, match="signature"):
            verify_quote(aik, b"n" * 20, lie)
    with pytest.raises(VerificationError, match="does not cover"):
        verify_quote(aik, b"n" * 20, forged(flags=QuoteFlag(1)), require=QuoteFlag.LABEL)
    with pytest.raises(VerificationError, match="number of hashes"):
        verify_quote(aik, b"n" * 20, forged(flags=QuoteFlag(1)))


def test_a_privacy_ca_can_prove_that_endorsement_and_identity_key_live_in_one_chip(
    path: Path, chip: Wire
) -> None:
    with closing(Manager.open(root(chip), path)) as manager:
        status = manager.status()
        group = status.groups[0]
        aik = PubKey.decode(group.identity_key)
        assert group.identity_label == group_label(status.manager, group.uuid)
        privacy_ca.verify_binding(aik, group.identity_label, group.identity_binding)
        with pytest.raises(VerificationError):
            privacy_ca.verify_binding(aik, bytes(20), group.identity_binding)
        ek = to_public_key(PubKey.decode(status.chip.endorsement_key))
        credential = privacy_ca.issue(ek, aik, b"certified")
        opened = SymmetricKey.decode(manager.activate(credential.for_tpm).reveal())
        assert privacy_ca.open_credential(opened, credential) == b"certified"
        stranger = PubKey.decode(status.chip.endorsement_key)
        with pytest.raises(TpmError):
            manager.activate(privacy_ca.issue(ek, stranger, b"for another").for_tpm)
        with pytest.raises(TpmError):
            manager.activate(b"no blob")
        client(manager, manager.bind(ALICE)).get_quote(bytes(20))
        assert keys.loaded_handles(Tpm(chip), ResourceType.AUTH) == ()


def test_pass_through_reaches_the_chip_and_its_refusal_comes_back(path: Path, chip: Wire) -> None:
    value = pcr.extend(Tpm(chip), 7, b"e" * 20)
    with closing(Manager.open(root(chip), path)) as manager:
        vtpm = client(manager, manager.bind(ALICE))
        assert vtpm.pcr_read(7) == value
        assert len(vtpm.random(5000)) == 5000
        with pytest.raises(TpmError) as refusal:
            vtpm.pcr_read(24)
        assert refusal.value.rc == Rc.BADINDEX


def test_speed_of_a_save(path: Path, chip: Wire) -> None:
    rounds = 200
    with closing(Manager.open(root(chip), path)) as manager:
        vtpm = client(manager, manager.bind(ALICE))
        chip.sent.clear()
        started = time.perf_counter()
        for number in range(rounds):
            vtpm.save_hash_key(number.to_bytes(64, "big"))
        each_us = (time.perf_counter() - started) / rounds * 1e6
        assert chip.sent == []  # saving a vTPM's secret costs the chip nothing
        print(f"SAVEHASHKEY: {each_us:.0f} us")
