"""The issuer that the DAA tests use has keys as Part 2 section 22 and the DAA paper want them."""

from __future__ import annotations

from daa_issuer import F_BITS, S_BITS, is_prime, the_issuer


def test_the_modulus_is_a_product_of_safe_primes() -> None:
    issuer = the_issuer()
    for prime in (issuer.p, issuer.q):
        assert is_prime(prime)
        assert is_prime((prime - 1) // 2)
    assert issuer.p != issuer.q
    assert issuer.key.n == issuer.p * issuer.q
    assert issuer.key.n.bit_length() == 2048


def test_the_bases_are_powers_of_a_generator_of_the_squares() -> None:
    issuer, key = the_issuer(), the_issuer().key
    assert pow(key.s0, issuer.order, key.n) == 1
    for prime in (issuer.p, issuer.q):
        assert key.s0 % prime != 1
    assert key.s1 == pow(key.s0, 1 << S_BITS, key.n)
    logs = (issuer.logs[name] for name in ("R0", "R1", "Z"))
    assert [key.r0, key.r1, key.z] == [pow(key.s0, log, key.n) for log in logs]


def test_pseudonyms_live_in_a_group_of_prime_order() -> None:
    key = the_issuer().key
    assert is_prime(key.rho)
    assert is_prime(key.gamma)
    assert key.rho.bit_length() == 2 * F_BITS == 208
    assert key.gamma.bit_length() == 2048
    assert (key.gamma - 1) % key.rho == 0
    assert (key.gamma - 1) // key.rho % key.rho != 0
    base = key.pseudonym_base(b"anybody")
    assert base != 1
    assert pow(base, key.rho, key.gamma) == 1
    assert len(key.settings.encode()) == 2 + 6 * 20 + 26
