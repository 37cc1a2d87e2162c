"""The commands of the command line, with their flags and the help of each."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flockwatch import commands
from flockwatch.flags import add_command, add_plain_command, flag_adder, positive


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `run` of what it parses is the command's function."""
    top = argparse.ArgumentParser(
        prog="flockwatch",
        description="Federated anomaly detection for fleets of edge machines. `flockwatch local` runs an "
        "example; `flockwatch COMMAND --help` describes a command.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong settings, arguments or data, 130 interrupted.",
    )
    top.add_argument("--version", action="version", version=f"flockwatch {version('flockwatch')}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_server(subparsers)
    _add_client(subparsers)
    _add_keys(subparsers)
    _add_simulation(subparsers)
    return top


def _add_server(subparsers: Any) -> None:
    server = add_command(
        subparsers, commands.server,
        "run the server of a federation until it is stopped",
        "flockwatch server --host 0.0.0.0 --certificate certs/server.pem --key certs/server.key\n"
        "flockwatch server --status 127.0.0.1:8080      # serves a status page",
        "Started again with the same state folder, the server continues from its newest model version. With\n"
        "`federation.max_rounds` it ends by itself: after that number of versions, or when it has converged.",
    )  # fmt: skip
    flag = flag_adder(server)
    flag("--host", "HOST", "server.host", "address to listen on")
    flag("--port", "PORT", "server.port", "port to listen on")
    flag("--state", "FOLDER", "server.state", "where model versions and history are stored", text=True)
    flag("--certificate", "FILE", "server.tls_certificate", "TLS certificate (PEM)", text=True)
    flag("--key", "FILE", "server.tls_key", "private key of the certificate (PEM)", text=True)
    flag("--status", "HOST:PORT", "server.status", "serve the status page and /metrics here", text=True)

    status = add_command(
        subparsers, commands.status,
        "print the status of a running server and its clients",
        "flockwatch status --address 127.0.0.1:8080",
    )  # fmt: skip
    flag_adder(status)(
        "--address", "HOST:PORT", "server.status", "address of the server's status page", text=True
    )


def _add_client(subparsers: Any) -> None:
    client = add_command(
        subparsers, commands.client,
        "train in a federation, and score a live stream of events if there is one",
        "flockwatch client --name edge-7 --server SERVER:8000 --ca ca.pem --key edge-7.key --source host:\n"
        "flockwatch client --data rows.parquet --server SERVER:8000      # only trains, on a file\n"
        "flockwatch client rollback --name edge-7                        # uses the previous model version\n"
        "flockwatch client rollback --name edge-7 --to newest            # undoes that\n"
        "flockwatch client accept --name edge-7                          # the open incidents are normal",
        "With --data alone, the client only trains, on the rows of a file. With --source, it scores each\n"
        "event of a stream by the newest model version, and trains on the normal events: it connects when\n"
        "the features are known, and trains when it has enough normal events (`client.min_rows`).",
    )  # fmt: skip
    client.add_argument(
        "action", nargs="?", choices=["rollback", "accept"],
        help="without one of these, the client is run. rollback: use an earlier model version until "
        "`rollback --to newest`, also while the client runs. accept: the running client ends its open "
        "incidents, and the values that it sees in them are normal from now on",
    )  # fmt: skip
    client.add_argument(
        "--to", metavar="VERSION", default=None,
        help="with rollback: the number of a version, or 'newest'; by default the previous one",
    )  # fmt: skip
    trainer = add_command(
        subparsers,
        commands.trainer,
        "internal: the training process, which `flockwatch client` starts itself",
    )
    detect = add_command(
        subparsers, commands.detect,
        "score a live stream of events by one model version, without training",
        "flockwatch detect --manifest v000060.safetensors --source tcp://127.0.0.1:7000\n"
        "flockwatch detect --manifest v000060.safetensors --source stdin: < events.jsonl",
        "The first events (30 by default) adapt the fleet's model version to this machine, and get no\n"
        "verdict.",
    )  # fmt: skip
    detect.add_argument(
        "--manifest", type=Path, required=True, metavar="FILE",
        help="file of the model version, from the folder `versions` of the server's state",
    )  # fmt: skip
    for command in (client, trainer, detect):
        flag = flag_adder(command)
        flag("--name", "NAME", "client.name", "name of this client, unique in the fleet", text=True)
        flag(
            "--state", "FOLDER", "client.state", text=True,
            help_text="where the client stores its state; by default runs/clients/NAME",
        )  # fmt: skip
        if command is not detect:
            flag("--data", "FILE", "client.data", "file of rows to train on, CSV or Parquet", text=True)
            flag("--server", "HOST:PORT", "client.server", "address of the server")
            flag("--ca", "FILE", "client.tls_ca", "CA certificate (PEM) of the server", text=True)
            flag(
                "--key", "FILE", "client.key", "this client's private key, registered by `enroll`", text=True
            )
        if command is not trainer:
            flag(
                "--source", "ADDRESS", "live.source", text=True,
                help_text="where events come from: file:PATH, stdin:, tcp://HOST:PORT, mqtt://HOST/TOPIC, "
                "or host: for the metrics of this machine",
            )  # fmt: skip
            flag(
                "--sink", "ADDRESS", "live.sinks", action="append",
                help_text="where notices go: stdout:, file:PATH, https://HOST/PATH or mqtt://HOST/TOPIC; "
                "may be repeated",
            )  # fmt: skip
            flag("--status", "HOST:PORT", "live.status", "serve /metrics and /healthz here", text=True)

    score = add_command(
        subparsers, commands.score,
        "print the score, threshold, verdict and causes of each row of a file",
        "flockwatch score --data rows.csv --manifest v000060.safetensors\n"
        "flockwatch score --data rows.csv --manifest v000060.safetensors --json     # for programs",
        "The rows are scored one after the other, as `flockwatch detect` scores a stream. The first rows\n"
        "(30 by default) adapt the fleet's model version to the machine, and get no verdict. The threshold\n"
        "follows from `threshold.budget` and the rows so far. The columns `label` and `split` are ignored.",
    )  # fmt: skip
    score.add_argument(
        "--data", type=Path, required=True, metavar="FILE",
        help="rows of one machine, oldest first: CSV with a header, or Parquet",
    )  # fmt: skip
    score.add_argument(
        "--manifest", type=Path, required=True, metavar="FILE",
        help="file of the model version: the fleet's, from the folder `versions` of the server's state, or a "
        "client's own, from its state folder",
    )  # fmt: skip
    score.add_argument(
        "--json", action="store_true",
        help="print a JSON object for each row: row, score, threshold, anomaly, causes; score and threshold "
        "are null for a row without a verdict",
    )  # fmt: skip

    inspect = add_plain_command(
        subparsers, commands.inspect,
        "print what a model version contains, or how the columns of a data file are read",
        "flockwatch inspect runs/server/versions/v000060.safetensors\nflockwatch inspect machine-1.csv",
    )  # fmt: skip
    inspect.add_argument(
        "file", type=Path, metavar="FILE", help="a model version (.safetensors) or a data file"
    )


def _add_keys(subparsers: Any) -> None:
    certs = add_plain_command(
        subparsers, commands.certs,
        "create or check a certificate authority (CA), the server's certificate and the clients' keys",
        "flockwatch certs make certs --host flock.example --client edge-7 --client edge-8\n"
        "flockwatch certs check certs --host flock.example",
    )  # fmt: skip
    certs.add_argument(
        "action",
        choices=["make", "check"],
        help="make: create the missing files, then check; check: only check",
    )
    certs.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the certificates and keys")
    certs.add_argument(
        "--host", action="append", default=[], metavar="HOST",
        help="host name or IP address at which clients reach the server; may be repeated",
    )  # fmt: skip
    certs.add_argument(
        "--client", action="append", default=[], metavar="NAME",
        help="name of a client to create a key for; may be repeated",
    )  # fmt: skip
    certs.add_argument(
        "--days",
        type=int,
        default=365,
        metavar="N",
        help="lifetime of the server's certificate in days (default: 365)",
    )
    certs.add_argument(
        "--renew", action="store_true", help="replace the server's certificate and key; the CA stays"
    )

    enroll = add_command(
        subparsers, commands.enroll,
        "register the public key of a client with the server; without arguments, list all keys",
        "flockwatch enroll edge-7 certs/clients/edge-7.pub\n"
        "flockwatch enroll                              # lists all clients and keys",
        "If `server.alerts_token` is set, the token with which the client posts notices to the server is\n"
        "printed, too; with a NAME alone, only the token.",
    )  # fmt: skip
    enroll.add_argument("client", nargs="?", metavar="NAME", help="name of the client")
    enroll.add_argument("public_key", nargs="?", type=Path, metavar="FILE", help="its public key, NAME.pub")
    revoke = add_command(
        subparsers, commands.revoke,
        "revoke the keys of a client: the server refuses it from its next request on",
        "flockwatch revoke edge-7",
    )  # fmt: skip
    revoke.add_argument("client", metavar="NAME", help="name of the client")
    revoke.add_argument(
        "--only", metavar="FINGERPRINT",
        help="revoke only the key with this fingerprint, as `flockwatch enroll` lists it: SHA256:...",
    )  # fmt: skip
    for command in (enroll, revoke):
        flag_adder(command)("--state", "FOLDER", "server.state", "the server's state folder", text=True)


def _add_simulation(subparsers: Any) -> None:
    local = add_command(
        subparsers, commands.local,
        "run a whole federation on this machine, each client in its own process",
        "flockwatch local                               # three generated machines\n"
        "flockwatch local --data FOLDER                 # a client for each file in FOLDER\n"
        "flockwatch local --data FILE --clients 5       # one file divided among five clients\n"
        "flockwatch local --set local.live=true         # ends with live streams, one with a fault",
    )  # fmt: skip
    flag = flag_adder(local)
    flag(
        "--data",
        "PATH",
        "local.data",
        "a folder with a file for each client, or one file to divide; by default data is generated",
        text=True,
    )
    flag("--clients", "N", "local.clients", "number of clients to divide one file among, or to generate")
    flag(
        "--partition", "WAY", "local.partition",
        "how to divide it: iid (random blocks of rows), contiguous (consecutive rows), column (a client for "
        "each value of --column) or dirichlet (clients that differ in size and rows)",
    )  # fmt: skip
    flag(
        "--column",
        "NAME",
        "local.column",
        "for --partition column: the column with the name of each row's client",
    )
    flag("--runs", "FOLDER", "local.runs", "where a folder with the results is created", text=True)

    evaluate = add_command(
        subparsers, commands.evaluate,
        "measure how well a fleet detects anomalies in labelled files",
        "flockwatch evaluate --data FOLDER",
        "Each file has one machine's rows, with a column `split` (0 training row, 1 test row) and a column\n"
        "`label` (0 normal, 1 abnormal) that only measures detection. Other detectors are measured too.",
    )  # fmt: skip
    flag = flag_adder(evaluate)
    flag("--data", "FOLDER", "evaluate.data", "folder with a labelled file for each client", text=True)
    flag("--seeds", "N", "evaluate.seeds", "number of runs, each with another random seed")
    flag(
        "--new-client", "ROWS", "evaluate.new_client_rows",
        "also measure clients that take no part in training and have this number of rows",
    )  # fmt: skip
    flag("--workers", "N", "evaluate.workers", "number of processes; by default one for each CPU core")
    flag("--runs", "FOLDER", "evaluate.runs", "where a folder with the results is created", text=True)

    play = add_plain_command(
        subparsers, commands.play,
        "publish the metrics of simulated machines, with faults, to an MQTT broker",
        "flockwatch play mqtt://127.0.0.1/plant --machines 4      # publishes to plant/machine-1 ...",
    )  # fmt: skip
    play.add_argument("broker", metavar="mqtt://HOST/TOPIC", help="machine NAME publishes to TOPIC/NAME")
    play.add_argument(
        "--machines", type=positive(int), default=3, metavar="N", help="number of machines (default: 3)"
    )
    play.add_argument(
        "--rate",
        type=positive(float),
        default=5.0,
        metavar="N",
        help="events per second of each machine (default: 5)",
    )
    play.add_argument(
        "--fault-every", type=positive(float), default=60.0, metavar="SECONDS",
        help="time from the start of one fault to the start of the next (default: 60)",
    )  # fmt: skip
    play.add_argument(
        "--first-fault", type=positive(float), default=120.0, metavar="SECONDS",
        help="time until the first fault (default: 120)",
    )  # fmt: skip
    play.add_argument("--seed", type=int, default=42, metavar="N", help="random seed (default: 42)")
