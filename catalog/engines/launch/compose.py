"""A deployment as a Docker Compose file: a service for every server, pinned to its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.process import ROUTER_PORT
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.engines.launch.process import Process
    from catalog.engines.registry import Engine
    from catalog.schema import Gpu, Model

_ROUTER_IMAGE = "nginx:1.29"


def compose(processes: Sequence[Process], model: Model, gpu: Gpu, engine: Engine) -> dict[str, Any]:
    """Return the file as an object; several servers get a router in front, on one more port."""
    nodes = {process.node for process in processes}
    if len(nodes) > 1:
        raise InputError(
            f"Docker Compose runs on one node, the deployment takes {len(nodes)}; "
            "export for kubernetes or as the engine's own commands"
        )
    names = [f"server{i}" for i in range(len(processes))] if len(processes) > 1 else ["server"]
    services = {name: _service(process, model, gpu, engine) for name, process in zip(names, processes, strict=True)}
    files = {name: content for process in processes for name, content in process.files.items()}
    configs = {_config(name): {"content": _escape(_yaml(content))} for name, content in files.items()}
    if len(processes) > 1:
        services["router"] = {
            "image": _ROUTER_IMAGE,
            "ports": [f"{ROUTER_PORT}:{ROUTER_PORT}"],
            "configs": [{"source": "router", "target": "/etc/nginx/conf.d/default.conf"}],
            "depends_on": {name: {"condition": "service_healthy"} for name in names},
        }
        configs["router"] = {"content": _nginx(dict(zip(names, processes, strict=True)))}
    return {"services": services} | ({"configs": configs} if configs else {})


def _service(process: Process, model: Model, gpu: Gpu, engine: Engine) -> dict[str, Any]:
    argv = [_escape(word) for word in containers.argv(process)]
    url = f"http://localhost:{process.port}{engine.health}"
    folder = _escape(containers.model_folder(model))
    mounts: list[Any] = [f"~/.cache/huggingface:{containers.HUB_CACHE}"]
    if folder:
        mounts = [{"type": "bind", "source": folder, "target": folder, "read_only": True}]
    service: dict[str, Any] = {
        "image": containers.image(engine, gpu),
        "entrypoint": argv[:1],
        "command": argv[1:],
        "ports": [f"{process.port}:{process.port}"],
        "ipc": "host",  # workers exchange tensors through shared memory
        "volumes": mounts,
        "healthcheck": {
            "test": ["CMD", "python3", "-c", f"import urllib.request; urllib.request.urlopen('{url}')"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "60m",  # the first start downloads the model
        },
        "restart": "unless-stopped",
    }
    variables = containers.environment(model)
    if model.gated:
        variables |= {"HF_TOKEN": "${HF_TOKEN:?the model is gated, set HF_TOKEN}"}
    if process.files:
        service["configs"] = [
            {"source": _config(name), "target": f"{containers.FILES}/{name}"} for name in process.files
        ]
    ids = [str(index) for index in process.gpus]
    if gpu.vendor == "amd":
        service["devices"] = ["/dev/kfd", "/dev/dri"]
        service["group_add"] = ["video"]
        service["security_opt"] = ["seccomp=unconfined"]
        variables["HIP_VISIBLE_DEVICES"] = ",".join(ids)
    elif gpu.vendor == "cpu":
        service["cap_add"] = ["SYS_NICE"]  # to bind memory to sockets
        service["security_opt"] = ["seccomp=unconfined"]
        variables |= dict(process.environment)
    else:  # the container sees only these, numbered from 0
        device = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service | ({"environment": variables} if variables else {})


def _escape(text: str) -> str:
    """Return text that Compose does not look for variables in."""
    return text.replace("$", "$$")


def _config(name: str) -> str:
    return name.partition(".")[0]


def _yaml(content: Any) -> str:
    import yaml  # slow to import and seldom needed

    return str(yaml.safe_dump(dict(content), sort_keys=False))


def _nginx(servers: dict[str, Process]) -> str:
    upstream = "\n".join(f"    server {name}:{process.port};" for name, process in servers.items())
    return (
        f"upstream servers {{\n    least_conn;\n{upstream}\n}}\n"
        f"server {{\n    listen {ROUTER_PORT};\n    client_max_body_size 64m;\n    location / {{\n"
        "        proxy_pass http://servers;\n        proxy_http_version 1.1;\n        proxy_buffering off;\n"
        "        proxy_read_timeout 1h;\n    }\n}\n"
    )
