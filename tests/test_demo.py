import subprocess
import sys

from scripts import ROOT


def test_it_is_the_predict_command():
    done = subprocess.run([sys.executable, "demo.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: mta-clip predict")
