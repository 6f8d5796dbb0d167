import pytest
from scripts import load_script


@pytest.mark.parametrize(("option", "command"), [([], "train"), (["--eval-only"], "evaluate")])
def test_it_runs_the_command_that_the_options_ask_for(option, command, monkeypatch):
    script = load_script("train_net.py")
    calls = []
    monkeypatch.setattr(script, "main", calls.append)
    script.run(["--config-file", "a.yaml", *option, "SEED", "3"])
    assert calls == [[command, "--config-file", "a.yaml", "SEED", "3"]]
