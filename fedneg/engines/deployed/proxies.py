"""Proxies, and the addresses of this machine, which are behind none of them.

What is started here talks to itself over 127.0.0.1. gRPC reads `grpc_proxy`,
`https_proxy`, `http_proxy`, and `no_grpc_proxy`, else `no_proxy`, in small letters
only; Python (and httpx, in Flower's HTTP) reads `all_proxy` too and capitals, unless
there is the same in small letters.
"""

from collections.abc import Mapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KINDS = {f"{kind}_proxy" for kind in ("grpc", "http", "https", "all")}
# Others (socks5://) stop httpx as soon as it is used, whatever `no_proxy` says.
SCHEMES = ("http", "https")


def around_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables that lead past the proxies to this machine.

    Parameters
    ----------
    variables : mapping of str to str
        An environment; without a proxy in it, it comes back as it is. A proxy that
        nothing started here could use is left out.
    """
    found, usable = dict(variables), 0
    for name, value in variables.items():
        if name.lower() in KINDS and value:
            scheme, colon, _ = value.partition("://")
            if colon and scheme.lower() not in SCHEMES:
                del found[name]
            else:
                usable += 1
    if usable:
        hosts = _hosts(variables, "no_proxy", "NO_PROXY")
        if "*" not in hosts:  # which means all, if it stands alone
            hosts = _with_loopback(hosts)
        found["no_proxy"] = found["NO_PROXY"] = ",".join(hosts)
        own = _hosts(variables, "no_grpc_proxy") or hosts
        found["no_grpc_proxy"] = ",".join(_with_loopback(own))
    return found


def variables_around_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what a command needs before it in a shell with these variables."""
    wanted, needed = around_proxies(variables), {}
    for name in ("no_proxy", "no_grpc_proxy"):
        is_read = name == "no_proxy" or name in variables
        if is_read and wanted.get(name) != variables.get(name):
            needed[name] = wanted[name]
    # Empty in small letters means none, whatever stands there in capitals.
    return needed | {n.lower(): "" for n in sorted(set(variables) - set(wanted))}


def _hosts(variables: Mapping[str, str], *names: str) -> list[str]:
    """Return the hosts in comma-separated variables, each once."""
    listed = ",".join(variables.get(name, "") for name in names).split(",")
    return list(dict.fromkeys(host.strip() for host in listed if host.strip()))


def _with_loopback(hosts: list[str]) -> list[str]:
    return list(dict.fromkeys([*hosts, *LOOPBACK]))
