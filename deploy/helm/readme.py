#!/usr/bin/env python3
"""Creates the chart's README.md from its values.yaml, and copies the rules, the dashboard and the licence to the chart.

    python3 deploy/helm/readme.py [--check]

With --check nothing is written, and the exit code is 1 if a file is not up to date.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE / "envoy-auth-tokens"
# Files that the chart contains as copies, because a chart cannot use files outside of its folder.
COPIES = {
    "LICENSE": HERE.parent.parent / "LICENSE",
    "files/alerts.yaml": HERE.parent / "prometheus" / "alerts.yaml",
    "files/dashboard.json": HERE.parent / "grafana" / "dashboard.json",
}
# Maps that are set as a whole: one row for each, without rows for the keys inside.
WHOLE = ["config", "resources", "podSecurityContext", "securityContext", "strategy"]

# A chart is read without the project, after unpacking or in a registry, so it has no links to files of the project.
HEAD = """\
# envoy-auth-tokens

This chart installs one envoy-auth-tokens for many Envoys, with issued keys in PostgreSQL, on Kubernetes 1.30 or newer. For Envoy and
this server in the Pod of an application, use `deploy/kubernetes/sidecar` of the project. The documents named here are in the folder
`docs` of the project.

The Secret `envoy-auth-tokens` must contain `admin-password` and `DATABASE_URL`, unless `externalSecret` fills it. The image is not in
a public registry: push it to your registry.

```sh
helm install envoy-auth-tokens deploy/helm/envoy-auth-tokens --namespace envoy-auth-tokens \\
  --set image.repository=registry.example.com/envoy-auth-tokens
helm test envoy-auth-tokens --namespace envoy-auth-tokens
```

The chart was linted and rendered by Helm 4.1, and every kind was validated with the schemas of its project. It was not installed in a
cluster.

Notes on the values:

- `config` is merged with the chart's configuration: `--set config.realm=shop` changes only the realm, and `null` removes a key.
  `--set-file configFile=config.yaml` uses a file as it is.
- A Job checks the configuration before an install or upgrade changes anything. An error stops it. Helm 3.18 and later prints
  the output, and `kubectl logs job/NAME-check` shows it for a day.
- `helm test` checks the configuration and the key store from a Pod outside of a mesh, and the health of the Service. With
  `tls.existingSecret` or `istio.enabled` the Service accepts only mTLS, and its health is not checked: send a request through Envoy.
- On OpenShift, which sets users itself: `podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}`.
- In Istio: `istio: {enabled: true, mayAsk: [shop]}` and `config: {ext_authz: {listen: "127.0.0.1:9191"}}`.
- Alerts need the Prometheus operator: `podMonitor`, `prometheusRule`. `docs/runbooks.md` explains each alert.

Without a database, with only the tokens of the configuration:

```yaml
config: {keys: null, admin: null, users: null, tokens: [{token: {$env: BOT_TOKEN}, actor: {id: bot}}]}
secretEnv: {BOT_TOKEN: bot-token} # this key of the Secret
secretFiles: []
database: {existingSecret: ""}
```

## Values

`make chart` creates this table from `values.yaml`.

| value | default | |
| --- | --- | --- |
"""


def rows():
    """One row per value: its path, its default, and the comment above it."""
    comment, path, whole = [], [], None
    lines = (CHART / "values.yaml").read_text().splitlines()
    found = []
    for number, line in enumerate(lines):
        if whole is not None and (not line.strip() or len(line) - len(line.lstrip()) > whole or line[whole:whole + 2] == "- "):
            if line.strip():
                found[-1][1].append(line.strip())
                continue
        whole = None
        if not line.strip():
            comment = []
            continue
        if match := re.match(r"^ *# ?(.*)$", line):
            comment.append(match[1])
            continue
        match = re.match(r"^( *)(\w+):(?: (.*))?$", line)
        if not match:
            raise SystemExit(f"error: values.yaml:{number + 1}: neither a key nor a comment: {line}")
        indent, key, value = len(match[1]), match[2], match[3]
        path = [*path[: indent // 2], key]
        name = ".".join(path)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        is_list = value is None and following.startswith(" " * indent + "- ")
        if value is not None or is_list or key in WHOLE:
            found.append([name, [value] if value is not None else [], " ".join(comment)])
            whole = indent if value is None else None
        elif comment:
            found.append([name, [], " ".join(comment)])
        comment = []
    return found


def readme():
    text = HEAD
    for name, default, what in rows():
        shown = f"`{default[0]}`" if len(default) == 1 else "see `values.yaml`" if default else ""
        # A bar would end the cell, and text in angle brackets must not become HTML.
        what = what.replace("|", "\\|").replace("<", "&lt;")
        text += f"| `{name}` | {shown} | {what} |\n"
    return text


def main(arguments):
    wanted = {CHART / "README.md": readme()}
    wanted.update((CHART / name, source.read_text()) for name, source in COPIES.items())
    if arguments not in ([], ["--check"]):
        raise SystemExit(__doc__)
    old = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in old:
        if arguments:
            print(f"error: {path.relative_to(HERE.parents[1])} is not up to date: run `make chart`", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
    return 1 if old and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
