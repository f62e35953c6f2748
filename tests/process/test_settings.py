"""Any file and any variables are either a configuration or a list of mistakes, of every program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tq_cluster import config as node_config
from tq_process.settings.setting import Mistake, Setting, SettingsError
from tq_worker.cli import config as worker_config
from tq_worker.cli.settings import SETTINGS

Load = Callable[[Path, Mapping[str, str], Mapping[tuple[str, ...], str]], object]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "-1", "nan", "1e999", "9" * 5_000, "a=", "127.0.0.1:1", "x" * 100_000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=9), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)
PROGRAMS = {
    "broker": (node_config.load, node_config.SETTINGS),
    "worker": (worker_config.load, SETTINGS),
}


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(("load", "known"), PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_no_configuration_is_mistakes_with_a_field_a_source_and_a_problem(
    load: Load,
    known: Sequence[Setting],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    names = st.sampled_from(sorted({part for setting in known for part in setting.field}))
    fields = st.one_of(names, st.text(max_size=9), st.integers())
    variables = st.sampled_from([setting.environment for setting in known])
    file = data.draw(st.dictionaries(fields, VALUES, max_size=6), label="file")
    texts = data.draw(st.dictionaries(variables, st.text(max_size=20)), label="variables")
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(file))

    mistakes: Sequence[Mistake] | None = None
    try:
        load(path, texts, {})
    except (SettingsError, node_config.ConfigError) as error:
        mistakes = error.mistakes

    assert mistakes is None or mistakes
    for mistake in mistakes or ():
        assert mistake.problem
        assert mistake.field or str(path) in mistake.problem, mistake
        assert mistake.source or not mistake.field, mistake
