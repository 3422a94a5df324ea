{{- define "name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 58 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 58 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "serviceAccount" -}}
{{ .Values.serviceAccount.existing | default (include "name" .) }}
{{- end }}

{{- /* The port of a listener of `config`: what the Service, the probes and the NetworkPolicy lead to. */ -}}
{{- define "port" -}}
{{- $config := fromYaml .root.Values.config }}
{{- if hasKey $config "Error" }}{{ fail (printf "config is not YAML: %s" $config.Error) }}{{ end }}
{{- $listen := dig .section "listen" "" $config }}
{{- if not (and (kindIs "string" $listen) (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):[1-9][0-9]{0,4}$" $listen)) }}
{{- fail (printf "config: write `%s: {listen: \"0.0.0.0:%s\"}` (or [::] for IPv6): it has to be reached from outside of its Pod" .section .usual) }}
{{- end }}
{{- regexFind "[0-9]+$" $listen }}
{{- end }}

{{- define "grpcPort" }}{{ include "port" (dict "root" . "section" "ext_authz" "usual" "9191") }}{{ end }}
{{- define "probesPort" }}{{ include "port" (dict "root" . "section" "probes" "usual" "9193") }}{{ end }}

{{- /* What would be half of mTLS is denied. */ -}}
{{- define "tls" -}}
{{- $configured := dig "ext_authz" "tls" "" (fromYaml .Values.config) }}
{{- if and .Values.tls.existingSecret (not $configured) }}
{{- fail "tls.existingSecret is set, and config has no `ext_authz.tls`: Envoy would be answered in plain text" }}
{{- end }}
{{- if and $configured (not .Values.tls.existingSecret) }}
{{- fail "config has `ext_authz.tls`: name the Secret with tls.crt, tls.key and ca.crt in tls.existingSecret" }}
{{- end }}
{{- end }}
