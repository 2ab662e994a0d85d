"""Random commands that mean something, built from the command table.

Every field of every declared command gets its value by its name and codec; sessions are opened,
kept and proven with the secrets that the table says they prove. Some choices are wrong on purpose.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from differences import LACKING
from engine_rig import (
    DATA_AUTH,
    KEY_AUTH,
    OWNER_AUTH,
    SRK_AUTH,
)
from fuzz_sides import Auth, Plan, Side
from fuzz_values import BY_NAME, TEMPLATES, KeyModel, Values

import hwtpm.tpm12.commands  # noqa: F401 - fills the table
from hwtpm.tpm12.auth import osap_shared_secret
from hwtpm.tpm12.const import (
    EntityType,
    KeyHandleValue,
    KeyUsage,
    NvIndex,
)
from hwtpm.tpm12.table import TABLE, Authorises, Command
from hwtpm.tpm12.types import (
    Key,
    NvAttributes,
    NvDataPublic,
    PcrInfoShort,
    PcrSelection,
)
from hwtpm.wire import (
    Handle,
    Nested,
)

__all__ = ["Grammar", "SessionHandle"]

OTHER_AUTH: Final = b"n" * 20  # of NV areas and counters
WRONG_AUTH: Final = b"w" * 20

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


class Grammar(Values):
    """Makes plans and remembers what exists. One random source decides everything.

    Args:
        rng: decides.
        keys: what can be loaded.
    """

    def __init__(self, rng: random.Random, keys: list[KeyModel]) -> None:
        super().__init__(rng, keys)
        self.loaded: dict[str, KeyModel] = {}
        self.sessions: dict[str, str] = {}  # name -> what it is bound to, "" for OIAP
        self._made = 0
        self._hashing = False
        self._rows = [row for row in TABLE if row.request is not None]
        self._weights = [HEAVY.get(row.name, 1.0) for row in self._rows]

    # --- choices ---------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

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
            special = BY_NAME.get(name)
            if isinstance(codec, Nested) and codec.of is Key:
                special = TEMPLATES.get(name)
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

    def nv_lock(self) -> Plan:
        """From then on the protections of all areas count."""
        anywhere = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
        public = NvDataPublic(
            NvIndex.LOCK, anywhere, anywhere, NvAttributes(0), False, False, False, 0
        )
        return Plan(TABLE["TPM_NV_DefineSpace"], {"pub_info": public, "enc_auth": bytes(20)})
