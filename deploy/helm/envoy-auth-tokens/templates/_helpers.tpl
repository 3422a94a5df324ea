{{- /* Templates of all charts of a release share one space of names: each of ours has the chart's prefix. */ -}}
{{- define "envoy-auth-tokens.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- /* At most 53 characters, so that what is added to it is still a label's value.  A Service's name has no dots; a
release's may. */ -}}
{{- define "envoy-auth-tokens.fullname" -}}
{{- $name := include "envoy-auth-tokens.name" . }}
{{- $release := .Release.Name | replace "." "-" }}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains $name $release }}{{ $release | trunc 53 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" $release $name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "envoy-auth-tokens.selectorLabels" -}}
app.kubernetes.io/name: {{ include "envoy-auth-tokens.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* The labels of an object: the chart's, `more`, and `commonLabels`.  Where two of them have one name, the first is taken.
`part` is of a Pod that is none of the servers: no Service and no selector may take it for one. */ -}}
{{- define "envoy-auth-tokens.labelsOf" -}}
{{- $name := include "envoy-auth-tokens.name" .root }}
{{- with .part }}{{ $name = printf "%s-%s" $name . }}{{ end }}
{{- $labels := dict "app.kubernetes.io/name" $name "app.kubernetes.io/instance" .root.Release.Name }}
{{- $_ := set $labels "app.kubernetes.io/version" (.root.Chart.AppVersion | replace "+" "_") }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
{{- merge $labels (.more | default dict) .root.Values.commonLabels | toYaml }}
{{- end }}

{{- define "envoy-auth-tokens.labels" -}}
{{ include "envoy-auth-tokens.labelsOf" (dict "root" .) }}
{{- end }}

{{- /* Its annotations, with their name, or nothing: `more`, and `commonAnnotations`. */ -}}
{{- define "envoy-auth-tokens.annotationsOf" -}}
{{- with merge dict (.more | default dict) .root.Values.commonAnnotations -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "envoy-auth-tokens.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "envoy-auth-tokens.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "envoy-auth-tokens.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- /* config.yaml, as text. */ -}}
{{- define "envoy-auth-tokens.configText" -}}
{{- if .Values.configFile }}{{ .Values.configFile }}{{ else }}{{ toYaml .Values.config }}{{ end }}
{{- end }}

{{- /* The configuration in JSON, whichever way it was written. */ -}}
{{- define "envoy-auth-tokens.configJson" -}}
{{- $config := fromYaml (include "envoy-auth-tokens.configText" .) }}
{{- if and .Values.configFile (hasKey $config "Error") }}{{ fail (printf "configFile is not YAML: %s" $config.Error) }}{{ end }}
{{- /* A section that is no map counts as absent here; `check` says what is wrong with it. */}}
{{- range $section := list "ext_authz" "probes" "admin" "keys" }}
{{- if not (kindIs "map" (get $config $section)) }}{{ $_ := unset $config $section }}{{ end }}
{{- end }}
{{- toJson $config }}
{{- end }}

{{- /* The port of a listener: what the Service, the probes and the NetworkPolicy lead to. */ -}}
{{- define "envoy-auth-tokens.port" -}}
{{- $config := fromJson (include "envoy-auth-tokens.configJson" .root) }}
{{- $listen := dig .section "listen" "" $config }}
{{- $there := printf "\"0.0.0.0:%s\"} (or [::] for IPv6): it has to be reached from outside of its Pod" .usual }}
{{- $pattern := "^(0\\.0\\.0\\.0|\\[::\\]):[1-9][0-9]{0,4}$" }}
{{- if .loopback }}
{{- $there = printf "\"127.0.0.1:%s\"}: %s" .usual .loopback }}
{{- $pattern = "^127\\.0\\.0\\.1:[1-9][0-9]{0,4}$" }}
{{- end }}
{{- if not (and (kindIs "string" $listen) (regexMatch $pattern $listen)) }}
{{- fail (printf "config: write `%s: {listen: %s" .section (replace "\"} " "\"}` " $there | replace "\"}: " "\"}`: ")) }}
{{- end }}
{{- regexFind "[0-9]+$" $listen }}
{{- end }}

{{- define "envoy-auth-tokens.grpcPort" -}}
{{- $mesh := ternary "with istio.enabled the mesh's Envoy alone may reach it" "" .Values.istio.enabled }}
{{- include "envoy-auth-tokens.port" (dict "root" . "section" "ext_authz" "usual" "9191" "loopback" $mesh) }}
{{- end }}
{{- define "envoy-auth-tokens.probesPort" -}}
{{- include "envoy-auth-tokens.port" (dict "root" . "section" "probes" "usual" "9193") }}
{{- end }}
{{- define "envoy-auth-tokens.adminPort" -}}
{{- include "envoy-auth-tokens.port" (dict "root" . "section" "admin" "usual" "9192") }}
{{- end }}

{{- define "envoy-auth-tokens.adminScheme" -}}
{{- ternary "https" "http" (not (empty (dig "admin" "tls" "" (fromJson (include "envoy-auth-tokens.configJson" .))))) }}
{{- end }}

{{- /* Values that do not fit together are denied here, once. */ -}}
{{- define "envoy-auth-tokens.assertConsistent" -}}
{{- if not (regexMatch "^[a-z]" (include "envoy-auth-tokens.fullname" .)) }}
{{- fail (printf "a Service cannot be named %s, which begins with a digit: set fullnameOverride" (include "envoy-auth-tokens.fullname" .)) }}
{{- end }}
{{- $config := fromJson (include "envoy-auth-tokens.configJson" .) }}
{{- $tls := dig "ext_authz" "tls" "" $config }}
{{- if and .Values.tls.existingSecret (not $tls) }}
{{- fail "tls.existingSecret is set, and config has no `ext_authz.tls`: Envoy would be answered in plain text" }}
{{- end }}
{{- if and $tls (not .Values.tls.existingSecret) }}
{{- fail "config has `ext_authz.tls`: name the Secret with tls.crt, tls.key and ca.crt in tls.existingSecret" }}
{{- end }}
{{- if and .Values.certificate.enabled (not .Values.tls.existingSecret) }}
{{- fail "certificate.enabled: name the Secret that cert-manager is to write in tls.existingSecret" }}
{{- end }}
{{- if and .Values.certificate.enabled (not .Values.certificate.issuerRef.name) }}
{{- fail "certificate.issuerRef: name an issuer of cert-manager" }}
{{- end }}
{{- if and .Values.istio.enabled .Values.tls.existingSecret }}
{{- fail "istio.enabled: the mesh's mTLS is enough; leave tls.existingSecret empty" }}
{{- end }}
{{- if and .Values.istio.enabled (not .Values.istio.mayAsk) }}
{{- fail "istio.mayAsk: name the namespaces whose Envoys may ask" }}
{{- end }}
{{- if and .Values.istio.enabled .Values.admin.service.enabled (not .Values.istio.mayAdminister) }}
{{- fail "istio.mayAdminister: name the namespaces, such as a gateway's, that may reach the admin listener" }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if or (hasKey $.Values.secretEnv .name) (and $.Values.database.existingSecret (eq .name "DATABASE_URL")) }}
{{- fail (printf "extraEnv: %s is there already, by secretEnv or database.existingSecret" .name) }}
{{- end }}
{{- end }}
{{- $grace := add .Values.drainSeconds 20 }}
{{- with .Values.terminationGracePeriodSeconds }}
{{- if lt (int .) (int $grace) }}
{{- fail (printf "terminationGracePeriodSeconds must be at least %d, drainSeconds and 20 more: else a Pod is killed while it answers" $grace) }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "autoscaling: maxReplicas is less than minReplicas" }}
{{- end }}
{{- end }}
{{- $store := dig "keys" "store" "" $config }}
{{- $most := ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled | int }}
{{- if and (kindIs "string" $store) (hasPrefix "sqlite:" (toString $store)) (gt $most 1) }}
{{- fail "config.keys.store: with SQLite each Pod would have keys of its own; name PostgreSQL, or one replica without autoscaling" }}
{{- end }}
{{- $fewest := ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled | int }}
{{- with .Values.podDisruptionBudget }}
{{- if and .enabled (not (kindIs "invalid" .minAvailable)) (not (kindIs "string" .minAvailable)) }}
{{- if ge (int .minAvailable) $fewest }}
{{- fail (printf "podDisruptionBudget.minAvailable must be less than the number of replicas, %d: else no node can be drained" $fewest) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.externalSecret }}
{{- if and .enabled (not .secretStoreRef.name) }}
{{- fail "externalSecret.secretStoreRef: name a store of External Secrets" }}
{{- end }}
{{- if and .enabled (not (or .data .dataFrom)) }}
{{- fail "externalSecret: write what is in the Secret in data or dataFrom" }}
{{- end }}
{{- end }}
{{- with .Values.admin }}
{{- range $name, $door := dict "ingress" .ingress "httpRoute" .httpRoute }}
{{- if $door.enabled }}
{{- if not $door.host }}{{ fail (printf "admin.%s.host: name the host under which keys are managed" $name) }}{{ end }}
{{- if not $.Values.admin.service.enabled }}{{ fail (printf "admin.%s needs admin.service.enabled" $name) }}{{ end }}
{{- $url := dig "admin" "public_url" "" $config | toString }}
{{- if not (regexMatch (printf "^https://%s(:[0-9]+)?(/.*)?$" (regexQuoteMeta $door.host)) $url) }}
{{- fail (printf "config: write `admin: {public_url: \"https://%s\"}`, as admin.%s.host says" $door.host $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
{{- fail "admin.httpRoute.parentRefs: name the Gateway" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What a container finds in its environment; empty when that is nothing. */ -}}
{{- define "envoy-auth-tokens.env" -}}
{{- if or .Values.database.existingSecret .Values.secretEnv .Values.extraEnv -}}
env:
{{- with .Values.database }}{{ if .existingSecret }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef: { name: {{ .existingSecret | quote }}, key: {{ .key | quote }} }
{{- end }}{{ end }}
{{- range $name, $key := .Values.secretEnv }}
- name: {{ $name | quote }}
  valueFrom:
    secretKeyRef: { name: {{ $.Values.existingSecret | quote }}, key: {{ $key | quote }} }
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- /* The volume of config.yaml, from this ConfigMap, and the files that it names; one volume, so that they change at one
moment.  And those of the values. */ -}}
{{- define "envoy-auth-tokens.volumes" -}}
- name: config
  projected:
    defaultMode: 0440
    sources:
    - configMap: { name: {{ .configMap | quote }} }
    {{- with .root.Values.secretFiles }}
    - secret:
        name: {{ $.root.Values.existingSecret | quote }}
        items:
        {{- range . }}
        - { key: {{ . | quote }}, path: {{ printf "secrets/%s" . | quote }} }
        {{- end }}
    {{- end }}
    {{- with .root.Values.database.caSecret }}
    - secret:
        name: {{ . | quote }}
        items: [{ key: ca.crt, path: postgres/ca.crt }]
        optional: true
    {{- end }}
    {{- with .root.Values.tls.existingSecret }}
    - secret:
        name: {{ . | quote }}
        items:
        - { key: tls.crt, path: tls/tls.crt }
        - { key: tls.key, path: tls/tls.key }
        - { key: ca.crt, path: tls/ca.crt }
    {{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "envoy-auth-tokens.volumeMounts" -}}
- { name: config, mountPath: /etc/envoy-auth-tokens, readOnly: true }
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where every Pod of ours runs, and as whom. */ -}}
{{- define "envoy-auth-tokens.podPlace" -}}
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
{{- range $name := list "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- with get $.Values $name }}
{{ $name }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A container that runs a command of ours, with what the servers have. */ -}}
{{- define "envoy-auth-tokens.command" -}}
image: {{ include "envoy-auth-tokens.image" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- with include "envoy-auth-tokens.env" . }}
{{ . }}
{{- end }}
volumeMounts: {{- include "envoy-auth-tokens.volumeMounts" . | nindent 0 }}
resources:
  requests: { cpu: 50m, memory: 64Mi }
  limits: { memory: 128Mi }
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Whether the Pod of `helm test` asks the Service: our command speaks neither TLS to it nor the mesh's mTLS. */ -}}
{{- define "envoy-auth-tokens.testAsks" -}}
{{- if and .Values.tests.enabled (not .Values.tls.existingSecret) (not .Values.istio.enabled) }}yes{{ end }}
{{- end }}
