"""Random commands that mean something, built from the command table.

Every field of every declared command gets its value by its name and codec; sessions are opened,
kept and proven with the secrets that the table says they prove. Some choices are wrong on purpose.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from differences import LACKING
from engine_rig import (
    DATA_AUTH,
    KEY_AUTH,
    OWNER_AUTH,
    SRK_AUTH,
    Rig,
    key12,
    pcr_info,
    pcr_info_long,
    template,
)
from fuzz_sides import Auth, Plan, Side

import hwtpm.tpm12.commands  # noqa: F401 - fills the table
from hwtpm.tpm12.auth import osap_shared_secret
from hwtpm.tpm12.const import (
    AuthDataUsage,
    Capability,
    CapProperty,
    EncScheme,
    EntityType,
    KeyFlag,
    KeyHandleValue,
    KeyUsage,
    NvIndex,
    NvPermission,
    ResourceType,
    SigScheme,
)
from hwtpm.tpm12.table import TABLE, Authorises, Command
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    Key,
    KeyParms,
    NvAttributes,
    NvDataPublic,
    PcrInfoShort,
    PcrSelection,
    PubKey,
    StoredData,
    pcr_composite_hash,
)
from hwtpm.wire import (
    Array,
    Blob,
    BoolByte,
    Fixed,
    Handle,
    Nested,
    OneOf,
    Rest,
    SizedNested,
    Uint,
)

__all__ = ["Grammar", "KeyModel", "SessionHandle", "prefabricate"]

OTHER_AUTH: Final = b"n" * 20  # of NV areas and counters
WRONG_AUTH: Final = b"w" * 20

NV_INDICES: Final = (0x1000, 0x1001, 0x2000, 0x50001000, 0x11600, 0, 0xFFFFFFFF, 0x10000001)
PCR_AT_RESET: Final = pcr_composite_hash(PcrSelection.of((16,)), {16: bytes(20)})

NUMBERS: Final = (0, 1, 2, 3, 4, 7, 8, 16, 20, 32, 64, 255, 256, 1024, 0x7FFFFFFF, 0xFFFFFFFF)

FLAVOURS: Final = (
    *((usage, 2048) for usage in (KeyUsage.STORAGE, KeyUsage.STORAGE, KeyUsage.MIGRATE)),
    *((KeyUsage.SIGNING, bits) for bits in (512, 1024, 2048)),
    (KeyUsage.BIND, 1024),
    (KeyUsage.BIND, 2048),
    (KeyUsage.LEGACY, 1024),
    (KeyUsage.LEGACY, 2048),
)

HEAVY: Final = {
    "TPM_SelfTestFull": 0.02,
    "TPM_ContinueSelfTest": 0.02,
    "TPM_CreateEndorsementKeyPair": 0.1,
    "TPM_CreateRevocableEK": 0.05,
    "TPM_TakeOwnership": 0.1,
    "TPM_MakeIdentity": 0.15,
    "TPM_CreateWrapKey": 0.5,
    "TPM_CMK_CreateKey": 0.5,
    "TPM_Startup": 0.2,
    "TPM_OwnerClear": 0.02,
    "TPM_ForceClear": 0.02,
    "TPM_RevokeTrust": 0.1,
    "TPM_PhysicalDisable": 0.05,
    "TPM_PhysicalSetDeactivated": 0.1,
    "TPM_OwnerSetDisable": 0.05,
    "TPM_SetTempDeactivated": 0.05,
    "TPM_DisableOwnerClear": 0.2,
    "TPM_DisableForceClear": 0.2,
    "TPM_Reset": 0.1,
    "TPM_SetCapability": 0.5,
    "TPM_GetCapability": 3,
    "TPM_NV_DefineSpace": 3,
    "TPM_NV_WriteValue": 3,
    "TPM_NV_ReadValue": 3,
    "TPM_LoadKey2": 4,
    "TPM_Seal": 3,
    "TPM_Unseal": 3,
    **dict.fromkeys(LACKING, 0.03),  # what succeeds there ends the episode
}


@dataclass(frozen=True)
class SessionHandle:
    """A session's handle where a command takes it as a parameter."""

    session: str

    def __call__(self, side: Side) -> int:
        return side.sessions[self.session].handle


@dataclass(frozen=True)
class KeyModel:
    """A key that both TPMs can load, under the SRK that they share or a loaded key by its name."""

    key: Key
    auth: bytes = KEY_AUTH
    parent: str = "srk"

    @property
    def public(self) -> PubKey:
        return PubKey(self.key.algorithm_parms, self.key.pub_key)

    @property
    def needs_auth(self) -> bool:
        return self.key.auth_data_usage != AuthDataUsage.NEVER


def prefabricate(rig: Rig, rng: random.Random) -> list[KeyModel]:
    """Wrapped keys of every usage, made by that TPM."""
    identity = template(KeyUsage.IDENTITY)
    keys = [KeyModel(rig.make_identity(identity).id_key) for _ in range(2)]
    for usage, bits in FLAVOURS:
        for _ in range(2):
            wanted = template(usage, bits)
            if rng.random() < 0.3:
                wanted = key12(wanted)
            if usage is KeyUsage.MIGRATE or rng.random() < 0.4:
                wanted = replace(wanted, key_flags=KeyFlag.MIGRATABLE)
            if rng.random() < 0.3:
                wanted = replace(wanted, auth_data_usage=AuthDataUsage.NEVER)
            if rng.random() < 0.2:
                info = pcr_info if wanted.form == LEGACY_FORM else pcr_info_long
                wanted = replace(wanted, pcr_info=info((16,), PCR_AT_RESET))
            keys.append(KeyModel(rig.create_key(wanted)))
    return keys


# What the sessions of a command prove where the table says LATER.
LATER: Final = {
    "TPM_Unseal": (DATA_AUTH, "data"),
    "TPM_NV_DefineSpace": (OWNER_AUTH, "owner"),
    "TPM_NV_WriteValue": (OWNER_AUTH, "owner"),
    "TPM_NV_ReadValue": (OWNER_AUTH, "owner"),
    "TPM_NV_WriteValueAuth": (OTHER_AUTH, "nv"),
    "TPM_NV_ReadValueAuth": (OTHER_AUTH, "nv"),
    "TPM_IncrementCounter": (OTHER_AUTH, "counter"),
    "TPM_ReleaseCounter": (OTHER_AUTH, "counter"),
    "TPM_GetPubKey": (KEY_AUTH, "key"),
}
_OWNER: Final = (OWNER_AUTH, "owner")


class Grammar:
    """Makes plans and remembers what exists. One random source decides everything.

    Args:
        rng: decides.
        keys: what can be loaded.
    """

    def __init__(self, rng: random.Random, keys: list[KeyModel]) -> None:
        self.rng = rng
        self.shelf = list(keys)
        self.loaded: dict[str, KeyModel] = {}
        self.sessions: dict[str, str] = {}  # name -> what it is bound to, "" for OIAP
        self.sealed: list[str] = []
        self.wrapped: list[str] = []
        self.contexts: list[str] = []
        self.counters: list[str] = []
        self._made = 0
        self._hashing = False
        self._rows = [row for row in TABLE if row.request is not None]
        self._weights = [HEAVY.get(row.name, 1.0) for row in self._rows]

    # --- choices ---------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def next_row(self) -> Command:
        if self._hashing:
            row = TABLE[self.pick("TPM_SHA1Update", "TPM_SHA1Complete", "TPM_SHA1CompleteExtend")]
        else:
            row = self.rng.choices(self._rows, self._weights)[0]
        starts = row.name in ("TPM_SHA1Start", "TPM_SHA1Update")
        self._hashing = starts and self.chance(0.8)  # any other command would end it
        return row

    def forget(self) -> None:
        """Handles are gone: power cycle."""
        self.loaded.clear()
        self.sessions.clear()

    # --- sessions --------------------------------------------------------------------------------

    def oiap(self) -> Plan:
        return Plan(TABLE["TPM_OIAP"], {}, tell=self.name("session"))

    def osap(self, entity: str) -> Plan:
        """A session for an entity: "owner", "srk", "nv:INDEX", a counter's or a key's name."""
        nonce = self.rng.randbytes(20)
        kind, value, secret = self._entity(entity)
        fields = {"entity_type": kind, "entity_value": value, "nonce_odd_osap": nonce}
        note = {"entity": entity, "secret": secret, "nonce": nonce}
        return Plan(TABLE["TPM_OSAP"], fields, tell=self.name("session"), note=note)

    def _entity(self, entity: str) -> tuple[int, Any, bytes]:
        if entity == "owner":
            return EntityType.OWNER, int(KeyHandleValue.OWNER), OWNER_AUTH
        if entity == "srk":
            return EntityType.SRK, int(KeyHandleValue.SRK), SRK_AUTH
        if entity.startswith("nv:"):
            return EntityType.NV, int(entity[3:]), OTHER_AUTH
        if entity.startswith("counter"):
            return EntityType.COUNTER, lambda side: side.handles[entity], OTHER_AUTH
        return EntityType.KEYHANDLE, lambda side: side.handles[entity], self.loaded[entity].auth

    @staticmethod
    def shared_secret(plan: Plan, nonce_even_osap: bytes) -> bytes:
        return osap_shared_secret(plan.note["secret"], nonce_even_osap, plan.note["nonce"])

    def wanted_sessions(self, row: Command, key: str) -> list[tuple[bytes, str]]:
        """(secret, entity) that each session of the command should prove; `key` is its key."""
        wanted = []
        for proof in row.authorises:
            if proof is Authorises.OWNER:
                wanted.append(_OWNER)
            elif proof is Authorises.SRK:
                wanted.append((SRK_AUTH, "srk"))
            elif proof is Authorises.KEY:
                wanted.append((SRK_AUTH, "srk") if key == "srk" else (self.loaded[key].auth, key))
            else:
                wanted.append(LATER.get(row.name, _OWNER))
        return wanted

    def auth(self, session: str, secret: bytes) -> Auth:
        wrong, spoil = self.chance(0.01), self.chance(0.01)
        return Auth(
            session,
            WRONG_AUTH if wrong else secret,
            self.rng.randbytes(20),
            go_on=self.chance(0.7),
            spoil=spoil,
            honest=not (wrong or spoil),
            bound=self.sessions.get(session, ""),
        )

    # --- fields ----------------------------------------------------------------------------------

    def key_for(self, row: Command) -> str:
        """A key that fits the command, mostly."""
        wanted = {
            "TPM_Sign": (KeyUsage.SIGNING, KeyUsage.LEGACY),
            "TPM_Quote": (KeyUsage.SIGNING, KeyUsage.LEGACY),
            "TPM_Quote2": (KeyUsage.SIGNING, KeyUsage.LEGACY),
            "TPM_UnBind": (KeyUsage.BIND, KeyUsage.LEGACY),
            "TPM_CertifyKey": (KeyUsage.SIGNING, KeyUsage.LEGACY),
            "TPM_CertifyKey2": (KeyUsage.SIGNING, KeyUsage.LEGACY),
            "TPM_TickStampBlob": (KeyUsage.SIGNING, KeyUsage.LEGACY),
            "TPM_MigrateKey": (KeyUsage.MIGRATE,),
        }.get(row.name, (KeyUsage.STORAGE,))
        if KeyUsage.STORAGE in wanted and self.chance(0.7):
            return "srk"
        fitting = [name for name, model in self.loaded.items() if model.key.key_usage in wanted]
        if fitting and self.chance(0.9):
            return self.rng.choice(fitting)
        return self.rng.choice(["srk", *self.loaded])

    def handle_of(self, key: str) -> Any:
        if self.chance(0.01):
            return self.pick(0, 0x01020304, int(KeyHandleValue.EK), int(KeyHandleValue.OWNER))
        if key == "srk":
            return int(KeyHandleValue.SRK)
        return lambda side: side.handles[key]

    def fields(
        self, row: Command, key: str, sessions: list[str], nonces: list[bytes]
    ) -> dict[str, Any]:
        assert row.request is not None
        made: dict[str, Any] = {}
        first_key = True
        for name, codec in row.request.layout.codecs.items():
            special = _BY_NAME.get(name)
            if isinstance(codec, Nested) and codec.of is Key:
                special = _TEMPLATES.get(name)
            if isinstance(codec, Handle):
                made[name] = self._handle(row, name, key if first_key else self.key_for(row))
                first_key = False
            elif codec.spec_name == "TPM_ENCAUTH" if hasattr(codec, "spec_name") else False:
                second = name == "data_migration_auth"
                made[name] = self._encrypted(row, sessions, nonces, second)
            elif special is not None:
                made[name] = special(self)
            else:
                made[name] = self.value(codec)
        return made

    def _handle(self, row: Command, name: str, key: str) -> Any:
        if "auth_handle" in name or row.name == "TPM_Terminate_Handle":
            if self.sessions and self.chance(0.9):
                session = self.rng.choice(list(self.sessions))
                return SessionHandle(session)
            return 0x02BADBAD
        if name == "handle" and row.name in ("TPM_FlushSpecific", "TPM_SaveContext"):
            return lambda side: 0x02BADBAD
        return self.handle_of(key)

    def _encrypted(
        self, row: Command, sessions: list[str], nonces: list[bytes], second: bool
    ) -> Any:
        secret = {
            "TPM_Seal": DATA_AUTH,
            "TPM_Sealx": DATA_AUTH,
            "TPM_NV_DefineSpace": OTHER_AUTH,
            "TPM_CreateCounter": OTHER_AUTH,
            "TPM_ChangeAuthOwner": OWNER_AUTH,
        }.get(row.name, KEY_AUTH)
        if not sessions:
            return secret
        number = len(sessions) - 1 if row.name == "TPM_MakeIdentity" else 0
        session, nonce = sessions[number], nonces[number] if second else None
        return lambda side: side.encrypt_auth(session, secret, nonce)

    def value(self, codec: Any) -> Any:
        """Something that the codec takes."""
        if isinstance(codec, OneOf):
            return self.rng.choice(sorted(codec.values))
        if isinstance(codec, Uint):
            return self.rng.choice(NUMBERS) % (1 << 8 * codec.width)
        if isinstance(codec, BoolByte):
            return self.chance(0.5)
        if isinstance(codec, Fixed):
            return bytes(codec.size) if self.chance(0.3) else self.rng.randbytes(codec.size)
        if isinstance(codec, Blob | Rest):
            size = min(codec.limit, self.pick(0, 1, 4, 20, 20, 32, 100, 256))
            return self.rng.randbytes(size)
        if isinstance(codec, Array):
            return tuple(
                self.value(codec.item) for _ in range(min(codec.limit, self.pick(0, 1, 2)))
            )
        if isinstance(codec, SizedNested) and self.chance(0.3):
            return None
        if isinstance(codec, Nested):
            special = _BY_TYPE.get(codec.of)
            return special(self) if special else self.structure(codec.of)
        raise AssertionError(f"the fuzzer knows no {type(codec).__name__}")

    def structure(self, of: type[Any]) -> Any:
        """A random structure of that type."""
        return of(**{name: self.value(codec) for name, codec in of.layout.codecs.items()})

    # --- values by name or type ------------------------------------------------------------------

    def pcr(self) -> int:
        return self.pick(*range(26), 0xFFFFFFFF)

    def selection(self) -> PcrSelection:
        if self.chance(0.05):
            return PcrSelection(self.rng.randbytes(self.pick(0, 1, 2, 3, 3, 4)))
        return PcrSelection.of(self.rng.sample(range(24), self.pick(0, 1, 1, 2, 5)))

    def pcr_data(self) -> bytes:
        if self.chance(0.6):
            return b""
        info = pcr_info_long if self.chance(0.5) else pcr_info
        encoded = info((16,), PCR_AT_RESET if self.chance(0.8) else bytes(20))
        if self.chance(0.1):
            at = self.rng.randrange(len(encoded))
            encoded = encoded[:at] + self.rng.randbytes(1) + encoded[at + 1 :]
        return encoded

    def key_template(self) -> Key:
        usage = self.pick(*KeyUsage)
        bits = 2048 if usage in (KeyUsage.STORAGE, KeyUsage.IDENTITY) else self.pick(512, 1024)
        key = template(usage, bits)
        if self.chance(0.4):
            key = key12(key)
        if self.chance(0.4):
            key = replace(key, key_flags=self.pick(0, 1, 2, 3, 4, 6, 8, 16, 18, 32))
        if self.chance(0.2):
            key = replace(key, auth_data_usage=self.pick(0, 1, 1, 3, 2))
        if self.chance(0.2):
            key = replace(key, pcr_info=self.pcr_data())
        if self.chance(0.1):
            parms = replace(
                key.algorithm_parms,
                enc_scheme=self.pick(*EncScheme),
                sig_scheme=self.pick(*SigScheme),
            )
            key = replace(key, algorithm_parms=parms)
        return key

    def key_parms(self) -> KeyParms:
        return self.structure(KeyParms) if self.chance(0.1) else self.key_template().algorithm_parms

    def identity_template(self) -> Key:
        return template(KeyUsage.IDENTITY) if self.chance(0.7) else self.key_template()

    def storage_template(self) -> Key:
        return template(KeyUsage.STORAGE) if self.chance(0.7) else self.key_template()

    def wrapped_key(self) -> Any:
        if self.wrapped and self.chance(0.2):
            name = self.rng.choice(self.wrapped)
            return lambda side: side.blobs[name]
        key = self.rng.choice(self.shelf).key
        if self.chance(0.08):
            damaged = bytearray(key.enc_data)
            damaged[self.rng.randrange(len(damaged))] ^= 1 << self.rng.randrange(8)
            return replace(key, enc_data=bytes(damaged))
        if self.chance(0.04):
            return replace(key, key_flags=key.key_flags ^ self.pick(1, 2, 4))
        return key

    def sealed_data(self) -> Any:
        if self.sealed and self.chance(0.95):
            name = self.rng.choice(self.sealed)
            return lambda side: side.blobs[name]
        return self.structure(StoredData)

    def public(self) -> PubKey:
        return self.rng.choice(self.shelf).public

    def nv_index(self) -> int:
        return self.pick(*NV_INDICES, *NV_INDICES[:3], *NV_INDICES[:3])

    def nv_public(self) -> NvDataPublic:
        def condition() -> PcrInfoShort:
            if self.chance(0.8):
                return PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
            digest = PCR_AT_RESET if self.chance(0.7) else bytes(20)
            return PcrInfoShort(self.selection(), self.pick(0, 1, 2, 0x1F, 0x1F, 0x20), digest)

        bits = [int(bit) for bit in NvPermission]
        chosen = self.rng.sample(bits, self.pick(0, 1, 1, 2, 3))
        size = self.pick(0, 1, 8, 20, 32, 32, 32, 256)
        flags = (self.chance(0.05), self.chance(0.05), self.chance(0.05))
        attributes = NvAttributes(sum(chosen))
        return NvDataPublic(self.nv_index(), condition(), condition(), attributes, *flags, size)

    def nv_lock(self) -> Plan:
        """From then on the protections of all areas count."""
        anywhere = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
        public = NvDataPublic(
            NvIndex.LOCK, anywhere, anywhere, NvAttributes(0), False, False, False, 0
        )
        return Plan(TABLE["TPM_NV_DefineSpace"], {"pub_info": public, "enc_auth": bytes(20)})

    def capability(self) -> int:
        return self.pick(*Capability, self.rng.choice(NUMBERS))

    def sub_capability(self) -> bytes:
        number = self.pick(*CapProperty, *(row.ordinal for row in TABLE), *NUMBERS, *NV_INDICES)
        if self.chance(0.1):
            return self.rng.randbytes(self.pick(0, 1, 2, 3, 5, 8))
        return int(number).to_bytes(4, "big")

    def counter(self) -> Any:
        if self.counters and self.chance(0.9):
            name = self.rng.choice(self.counters)
            return lambda side: side.handles.get(name, 0)
        return self.rng.choice(NUMBERS)

    def ordinal(self) -> int:
        return self.pick(*(row.ordinal for row in TABLE), *NUMBERS)

    def resource(self) -> int:
        return self.pick(*ResourceType, self.rng.choice(NUMBERS))


_BY_NAME: Final[dict[str, Callable[[Grammar], Any]]] = {
    "pcr_num": Grammar.pcr,
    "pcr_index": Grammar.pcr,
    "pcr_info": Grammar.pcr_data,
    "nv_index": Grammar.nv_index,
    "offset": lambda grammar: grammar.pick(0, 0, 0, 0, 1, 8, 31, 32, 33, 255, 0x7FFFFFF0),
    "data_size": lambda grammar: grammar.pick(0, 1, 8, 20, 32, 32, 33, 256),
    "data": lambda grammar: grammar.rng.randbytes(grammar.pick(0, 1, 8, 20, 32, 32, 33)),
    "cap_area": Grammar.capability,
    "sub_cap": Grammar.sub_capability,
    "count_id": Grammar.counter,
    "ordinal_to_audit": Grammar.ordinal,
    "resource_type": Grammar.resource,
    "hash_data": lambda grammar: grammar.rng.randbytes(grammar.pick(0, 1, 63, 64, 64, 65, 128)),
    "area_to_sign": lambda grammar: grammar.rng.randbytes(grammar.pick(20, 20, 20, 20, 0, 1, 35)),
    "bytes_requested": lambda grammar: grammar.pick(0, 1, 20, 64, 1000),
    "physical_presence": lambda grammar: grammar.pick(0x8, 0x8, 0x8, 0x10, 0x20, 0x18, 0x1, 0x300),
    "protocol_id": lambda grammar: grammar.pick(5, 5, 5, 4, 0),
    "migration_scheme": lambda grammar: grammar.pick(1, 2, 3, 4, 5, 0),
    "migration_type": lambda grammar: grammar.pick(1, 2, 3, 4, 5, 0),
    "entity_type": lambda grammar: grammar.pick(1, 2, 4, 5, 6, 10, 11, 0x602, 0x102),
    "startup_type": lambda grammar: grammar.pick(1, 2, 3, 0),
}

_TEMPLATES: Final[dict[str, Callable[[Grammar], Any]]] = {
    "key_info": Grammar.key_template,
    "id_key_params": Grammar.identity_template,
    "srk_params": Grammar.storage_template,
}
"""Keys that are to be made; any other is one that was."""

_BY_TYPE: Final[dict[type[Any], Callable[[Grammar], Any]]] = {
    Key: Grammar.wrapped_key,
    KeyParms: Grammar.key_parms,
    StoredData: Grammar.sealed_data,
    PubKey: Grammar.public,
    PcrSelection: Grammar.selection,
    NvDataPublic: Grammar.nv_public,
}
