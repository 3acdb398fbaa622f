"""What no code of ours does: the linter that `make test` runs refuses it, whoever writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUFF = Path(sys.executable).with_name("ruff")

DANGEROUS = {
    "S301": "import pickle\npickle.loads(b'')\n",
    "S306": "import tempfile\ntempfile.mktemp()\n",
    "S307": "eval(input())\n",
    "S501": "import requests\nrequests.get('https://a', verify=False, timeout=1)\n",
    "S506": "import yaml\nyaml.load('')\n",
    "S507": "from paramiko import client\nssh = client.SSHClient()\n"
    "ssh.set_missing_host_key_policy(client.AutoAddPolicy)\n",
    "S602": "import subprocess\nsubprocess.run(input(), shell=True)\n",
    "S605": "import os\nos.system(input())\n",
}


@pytest.mark.parametrize("rule", DANGEROUS)
def test_what_is_dangerous_is_refused_by_the_linter(rule: str) -> None:
    """Sabotage: take `S` out of the selection."""
    words = [str(RUFF), "check", "--output-format=json", "--stdin-filename", "agent/evil.py", "-"]
    done = subprocess.run(
        words, cwd=ROOT, input=DANGEROUS[rule], capture_output=True, text=True, check=False
    )
    assert rule in {one["code"] for one in json.loads(done.stdout)}
