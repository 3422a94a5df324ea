#!/usr/bin/env python3
"""Makes the chart's README.md of its values.yaml, and brings the rules, the dashboard and the licence into it.

    python3 deploy/helm/readme.py [--check]

With --check nothing is written: exit code 1 where a file is not what it would be.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE / "envoy-auth-tokens"
# What the chart holds a copy of, since a chart's files are those of its folder.
COPIES = {
    "LICENSE": HERE.parent.parent / "LICENSE",
    "files/alerts.yaml": HERE.parent / "prometheus" / "alerts.yaml",
    "files/dashboard.json": HERE.parent / "grafana" / "dashboard.json",
}
# Maps that one sets as a whole: a row each, without one for every key inside.
WHOLE = ["config", "resources", "podSecurityContext", "securityContext", "strategy"]

# A chart is read on its own, where it was unpacked or on a page of a registry: it has no link into the project.
HEAD = """\
# envoy-auth-tokens

One envoy-auth-tokens for many Envoys, with issued keys in PostgreSQL, for Kubernetes 1.30 or newer. For Envoy and this server
beside an application, in its Pod, take `deploy/kubernetes/sidecar` of the project. Its folder `docs` has what is named here.

The Secret `envoy-auth-tokens` must hold `admin-password` and `DATABASE_URL`, unless `externalSecret` fills it. The image is in
no public registry: push it to yours.

```sh
helm install envoy-auth-tokens deploy/helm/envoy-auth-tokens --namespace envoy-auth-tokens \\
  --set image.repository=registry.example.com/envoy-auth-tokens
helm test envoy-auth-tokens --namespace envoy-auth-tokens
```

It was linted and rendered by Helm 4.1, and every kind was held against the schemas of its project. It was never installed in a
cluster: none was there.

What values can say:

- `config` is merged with the chart's own: `--set config.realm=shop` changes that alone, and `null` takes a key away.
  `--set-file configFile=config.yaml` takes a file as it is.
- A Job checks the configuration before an install or upgrade changes anything. An error stops it. Helm from 3.18 on prints
  every line, and `kubectl logs job/NAME-check` shows them for a day.
- `helm test` tries the configuration and the key store from a Pod outside of a mesh, and asks the Service for its health. It
  does not ask where the Service takes mTLS alone, with `tls.existingSecret` or `istio.enabled`: send a request through an Envoy.
- On OpenShift, which chooses users itself: `podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}`.
- In Istio: `istio: {enabled: true, mayAsk: [shop]}` and `config: {ext_authz: {listen: "127.0.0.1:9191"}}`.
- Alerts need the Prometheus operator: `podMonitor`, `prometheusRule`; `docs/runbooks.md` says what each of them means.

Without a database, for tokens of the configuration alone:

```yaml
config: {keys: null, admin: null, users: null, tokens: [{token: {$env: BOT_TOKEN}, actor: {id: bot}}]}
secretEnv: {BOT_TOKEN: bot-token} # this key of the Secret
secretFiles: []
database: {existingSecret: ""}
```

## Values

This table is made of `values.yaml` by `make chart`.

| value | default | |
| --- | --- | --- |
"""


def rows():
    """One row a value: its path, its default, what the comment over it says."""
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
        # A bar would end the cell; words between angle brackets are no HTML.
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
            print(f"error: {path.relative_to(HERE.parents[1])} is not what `make chart` makes", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
    return 1 if old and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
