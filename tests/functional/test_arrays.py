"""Numbers of patients against those of sorted names."""

import numpy as np
import pytest
from messages import refused

from cxrignite.functional import arrays
from cxrignite.functional.arrays import patient_codes

RNG = np.random.default_rng(0)
NAMES = [f"p{each:x}" for each in RNG.integers(0, 3000, 5000)]


@pytest.mark.parametrize(
    "patients",
    [NAMES, np.array(NAMES), np.array(NAMES, "S"), np.array(NAMES)[::-2], [3, 1, 3], ["", ""], []],
)
@pytest.mark.parametrize("are_digests_equal", [False, True])
def test_equal_names_and_no_others_get_equal_numbers(patients, are_digests_equal, monkeypatch):
    if are_digests_equal:
        monkeypatch.setattr(arrays, "_digests", lambda names: np.zeros(names.size, np.uint64))
    codes = patient_codes(patients)
    pairs = set(zip(list(patients), codes.tolist(), strict=True))
    assert len(pairs) == len(set(patients)) == len(set(codes.tolist()))


def test_patients_that_are_not_known_are_refused():
    with refused(ValueError, "patients", "float"):
        patient_codes([1.5, float("nan")])
