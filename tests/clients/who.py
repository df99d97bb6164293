"""Says who calls, with and without a token, over TLS. Run by tests/clients.rs as `who.py ADDRESS CA TOKEN`."""

import sys

from haul_client import Client, HaulError
from haul_client.v1.access_service_pb2 import WhoAmIRequest

address, ca, token = sys.argv[1:4]
for settings in ({}, {"token": token, "tenant": "nobody"}, {"token": token, "tenant": "default"}):
    with Client(address, ca=ca, **settings) as client:
        try:
            who = client.access.WhoAmI(WhoAmIRequest())
            print(who.principal, "of", who.tenant or "default")
        except HaulError as error:
            print(error.code.name, error.reason)

refused = 0
for place, settings in (
    ("example.com:4285", {"token": token}),
    ("127.0.0.1:4285", {"ca": ca}),
    ("ftp://127.0.0.1", {}),
):
    try:
        Client(place, **settings)
    except ValueError as error:
        assert place in str(error), error
        refused += 1
print("refused", refused)
