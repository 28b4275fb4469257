"""Nothing here may reach for the network: this comes before the hub's library is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
