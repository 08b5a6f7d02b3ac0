"""A team's services, real ones, on this machine: S3, PostgreSQL, MLflow, MariaDB and ZenML's server.

Each is a context manager that gives an address, on free ports of the host it is told, and ends its server however the
block ends; should nobody be left to end it, the server ends itself.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

LONGEST_S = 5400
"""A server ends itself after this long."""
START_S = 240
BUCKET = "assay"
USER, PASSWORD = "admin", "Of-a-test-and-no-more-1"
JWT_SECRET = "of-a-test-and-of-nothing-else-at-all"
"""Of everything that asks for one."""


@dataclass(frozen=True)
class S3Server:
    """A SeaweedFS with two accounts: `key` may do everything, `blind` (same secret) may only write."""

    endpoint: str
    secret: str = "secret"

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Store objects in a bucket that is there. `images` is; another one costs the server seconds."""
        store = self.store(bucket)
        for key, content in objects.items():
            obstore.put(store, key, content)

    def make_bucket(self, bucket: str) -> None:
        url = obstore.sign(self.store(bucket), "PUT", "", expires_in=timedelta(minutes=5))
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=20).close()

    def store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id="key",
            secret_access_key=self.secret,
            client_options={"allow_http": True},
        )

    @property
    def environment(self) -> dict[str, str]:
        """What clients of AWS's libraries find it by."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """TCP ports that nobody listens on now, all different."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@contextmanager
def seaweedfs(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """S3, with the bucket `images`."""
    weed = program("weed", f"{Path(sys.executable).parent}")
    server = S3Server(f"http://{host}:{(ports := free_ports(10, host))[0]}")

    def stores() -> None:
        server.make_bucket("images")
        server.put("images", {"probe": b"x"})

    with running([weed, *_arguments(folder, ports, host)], folder, "SeaweedFS", stores):
        yield server


def _arguments(folder: Path, ports: list[int], host: str) -> list[str]:
    credentials = [{"accessKey": name, "secretKey": S3Server.secret} for name in ("key", "blind")]
    identities = [
        {"name": "all", "credentials": credentials[:1], "actions": ["Admin", "Read", "Write", "List"]},
        {"name": "blind", "credentials": credentials[1:], "actions": ["Write"]},
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ("s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "master.port", "master.port.grpc")
    names += ("volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    places = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    settings = [f"-ip={host}", f"-ip.bind={host}", f"-dir={folder}", "-s3", f"-s3.config={folder / 's3.json'}"]
    return ["server", *settings, "-volume.max=20", "-master.volumeSizeLimitMB=64", *places]


@contextmanager
def postgres(database: str, host: str = "127.0.0.1") -> Iterator[str]:
    """PostgreSQL with an empty database; gives its address for SQLAlchemy. On `host` it wants a password."""
    programs = os.pathsep.join(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    initdb, server = program("initdb", programs), program("postgres", programs)
    # Root may not run it, and nobody else may look into a folder of pytest's.
    with tempfile.TemporaryDirectory(prefix="postgres-") as made, ExitStack() as stack:
        folder, port = Path(made), free_ports(1)[0]
        account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if account:
            shutil.chown(folder, "postgres", "postgres")
        words = [initdb, "--pgdata=data", f"--username={USER}", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=START_S, **account)  # type: ignore[call-overload]
        with (folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
        listen = f"listen_addresses={_beside_this_machine(host)}"
        command = [server, "-D", "data", "-c", f"port={port}", "-c", listen, "-c", "fsync=off"]
        address = f"postgresql+psycopg2://{USER}@127.0.0.1:{port}"
        stack.enter_context(
            running([*command, "-k", str(folder)], folder, "PostgreSQL", lambda: _create(address, database), **account)
        )
        yield f"{address}/{database}"


def _create(address: str, database: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if not connection.execute(text(f"select 1 from pg_database where datname = '{database}'")).first():
            connection.execute(text(f"create database {database}"))
    engine.dispose()


def _beside_this_machine(host: str) -> str:
    return ",".join(dict.fromkeys(["127.0.0.1", host]))


@contextmanager
def mariadb(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """MariaDB; gives its address as ZenML wants it, with a database that is not there yet."""
    install, server = program("mariadb-install-db"), program("mariadbd", "/usr/sbin")
    data, port = folder / "data", free_ports(1)[0]
    account = ["--user=root"] if os.geteuid() == 0 else []
    words = [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    subprocess.run([*words, *account, "--skip-test-db"], check=True, capture_output=True, timeout=START_S)
    bind = f"--bind-address={_beside_this_machine(host)}"
    command = [server, "--no-defaults", f"--datadir={data}", f"--port={port}", bind, *account]
    socket_file = f"/tmp/mariadb-{port}.sock"  # one in pytest's folder would have too long a name
    try:
        with running([*command, f"--socket={socket_file}"], folder, "MariaDB", lambda: _secure(port)):
            yield f"mysql://root:{PASSWORD}@127.0.0.1:{port}/zenml"
    finally:
        Path(socket_file).unlink(missing_ok=True)


def _secure(port: int) -> None:
    import pymysql

    with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection, connection.cursor() as cursor:
        cursor.execute(f"alter user 'root'@'localhost' identified by '{PASSWORD}'")


@contextmanager
def mlflow_server(folder: Path, backend: str, s3: S3Server, host: str = "127.0.0.1") -> Iterator[str]:
    """MLflow's server with accounts, its runs in a database and its artifacts in S3, through itself."""
    port = free_ports(1, host)[0]
    url = f"http://{host}:{port}"
    accounts = folder / "accounts.ini"
    accounts.write_text(
        f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
    )
    environment = s3.environment | {
        "MLFLOW_AUTH_CONFIG_PATH": str(accounts),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-a-test",
        "MLFLOW_S3_ENDPOINT_URL": s3.endpoint,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--app-name", "basic-auth", "--backend-store-uri", backend, "--serve-artifacts"]
    command += ["--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    with running(command, folder, "MLflow", lambda: answers(f"{url}/health"), environment):
        yield url


@contextmanager
def zenml_server(folder: Path, store: str = "", host: str = "127.0.0.1", version: str = "") -> Iterator[str]:
    """ZenML's server, on a database (SQLite without one): what runs elsewhere works with no less.

    With `version`, it says that it is of that one.
    """
    port = free_ports(1, host)[0]
    url = f"http://{host}:{port}"
    environment = {
        "ZENML_CONFIG_PATH": str(folder),
        "ZENML_SERVER": "true",
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
        "ZENML_SERVER_JWT_SECRET_KEY": JWT_SECRET,
        "ZENML_DEFAULT_USER_NAME": USER,
        "ZENML_DEFAULT_USER_PASSWORD": PASSWORD,
        "ZENML_ANALYTICS_OPT_IN": "false",
        **({"ZENML_STORE_URL": store} if store else {}),
    }
    start = f"import zenml; zenml.__version__ = {version!r} or zenml.__version__; import uvicorn; uvicorn.main()"
    command = [sys.executable, "-c", start, "zenml.zen_server.zen_server_api:app"]
    command += ["--host", host, "--port", str(port)]
    with running(command, folder, "ZenML's server", lambda: answers(f"{url}/health"), environment):
        yield url


@dataclass(frozen=True)
class Team:
    """All of a team's services, and what a person's environment says of them."""

    s3: S3Server
    mlflow: str
    zenml: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.s3.environment,
            "ASSAY_BUCKET": BUCKET,
            "ASSAY_LEDGER": f"s3://{BUCKET}/ledger",
            "ASSAY_S3_ENDPOINT": self.s3.endpoint,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "ZENML_STORE_URL": self.zenml,
            "ZENML_STORE_USERNAME": USER,
            "ZENML_STORE_PASSWORD": PASSWORD,
        }


@contextmanager
def team(folder: Path, host: str = "127.0.0.1") -> Iterator[Team]:
    """All services; what others reach is on `host`, the databases are on 127.0.0.1."""
    with ExitStack() as stack:

        def room(name: str) -> Path:
            (folder / name).mkdir(parents=True)
            return folder / name

        s3 = stack.enter_context(seaweedfs(room("s3"), host))
        s3.make_bucket(BUCKET)
        backend = stack.enter_context(postgres("mlflow"))
        store = stack.enter_context(mariadb(room("mariadb")))
        mlflow = stack.enter_context(mlflow_server(room("mlflow"), backend, s3, host))
        yield Team(s3, mlflow, stack.enter_context(zenml_server(room("zenml"), store, host)))


def program(name: str, places: str = "") -> str:
    """Path of a program.

    Raises:
        pytest.skip.Exception: it is not installed.
    """
    found = shutil.which(name, path=f"{places}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    name: str,
    works: Callable[[], None],
    environment: Mapping[str, str] | None = None,
    **account: object,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server in a session of its own, from when it works to the end of the block."""
    foreign = ("ZENML_", "AWS_", "MLFLOW_", "ASSAY_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    with (folder / "log").open("wb") as log:
        # It ends itself: it must not outlive a killed pytest.
        process = subprocess.Popen(
            ["timeout", "--signal=KILL", str(LONGEST_S), *command],
            env=inherited | dict(environment or {}), cwd=folder, stdout=log, stderr=log, start_new_session=True,
            **account,
        )  # type: ignore[call-overload] # fmt: skip
    try:
        _wait(process, works, name, folder / "log")
        yield process
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)  # no other way ends each of them for certain
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", works: Callable[[], None], name: str, log: Path) -> None:
    end, why = time.monotonic() + START_S, ""
    while process.poll() is None and time.monotonic() < end:
        try:
            works()
        except (OSError, BaseError, *_database_errors()) as error:
            why = str(error)
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"{name} did not start: {why[-500:]}\n{log.read_text(errors='replace')[-2000:]}")


def _database_errors() -> tuple[type[Exception], ...]:
    from pymysql.err import OperationalError
    from sqlalchemy.exc import OperationalError as Refused

    return OperationalError, Refused


def answers(url: str) -> None:
    """Nothing, if it does.

    Raises:
        OSError: it does not.
    """
    urllib.request.urlopen(url, timeout=5).close()
