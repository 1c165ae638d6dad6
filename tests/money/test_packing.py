from __future__ import annotations

import pytest

from sweeper.money.packing import Packing


def test_a_line_through_two_steps() -> None:
    packing = Packing.through((100, 0.3), (400, 0.6))
    assert packing.as_dict() == pytest.approx({"fixed_s": 0.2, "token_s": 0.001, "tokens": 100})
    assert Packing.from_dict(packing.as_dict()) == packing
    assert packing.seconds(400) == pytest.approx(0.6)
    # K(1 + ρ)/(K + ρ), with ρ = t0·R/T = 2.
    assert [packing.speedup(slots) for slots in (1, 4, 16)] == pytest.approx([1.0, 4 * 3 / 6, 16 * 3 / 18])


def test_noise_makes_neither_part_negative() -> None:
    assert Packing.through((100, 0.1), (400, 0.5)) == Packing(0.0, 0.001, 100)  # above proportion
    flat = Packing.through((100, 0.3), (400, 0.2))
    assert (flat.fixed_s, flat.token_s) == (0.3, 0.0)
    assert flat.speedup(8) == pytest.approx(8)


@pytest.mark.parametrize(
    ("fixed_s", "most", "best"),
    [
        (0.0, 16, 1),  # bound by arithmetic
        (0.004, 16, 1),  # 4 %
        (0.1, 16, 6),  # ρ = 1: 16 together are 1.88 times as fast, 6 are 1.71
        (0.1, 2, 2),
        (10.0, 16, 15),  # nearly free
        (0.1, 1, 1),
    ],
)
def test_the_knee(fixed_s: float, most: int, best: int) -> None:
    packing = Packing(fixed_s, 0.001, 100)
    assert packing.best(most) == best
    assert all(packing.speedup(slots) < 0.9 * packing.speedup(most) for slots in range(1, best)) or best == 1
    words = packing.in_words(best)
    assert words.startswith(
        "one trial at a time" if best == 1 else f"{best} trials together train {packing.speedup(best):.2f}"
    )
    assert f"{1000 * fixed_s:.3g} ms" in words
    assert "1,000 tokens/s" in words


def test_what_packing_promises_in_words() -> None:
    assert Packing(0.1, 0.001, 100).in_words(1) == (
        "one trial at a time: more together would gain less than 5% "
        "(100 ms for any step, then 1,000 tokens/s; one trial's has 100 tokens)"
    )
    assert Packing(0.1, 0.0, 100).in_words(2) == (
        "2 trials together train 2.00 times as fast as one by one "
        "(100 ms for any step, then no more for each token; one trial's has 100 tokens)"
    )
