"""Autoencoders, data and training. Before PyTorch is imported it says how PyTorch's threads wait."""

import os

# A thread that spins while it waits for another takes the core that the other needs: beside other work a
# sample took ten times as long. Whoever says otherwise by one of these is heard.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "passive"
