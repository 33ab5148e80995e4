{{- define "closured.labels" -}}
app.kubernetes.io/name: closured
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Without the release's name: there is one agent on a node, whatever its release. */}}
{{- define "closured.selector" -}}
app.kubernetes.io/name: closured
app.kubernetes.io/component: agent
{{- end }}

{{- define "closured.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "closured.nixConf" -}}
{{- range $name, $value := .Values.nixConf }}
{{ $name }} = {{ $value }}
{{- end }}
{{ end }}

{{- define "closured.daemonSocket" -}}
{{ if .Values.hostStore }}/nix/var/nix/daemon-socket/socket{{ else }}{{ .Values.stateDir }}/run/nix/socket{{ end }}
{{- end }}

{{- define "closured.controllerSelector" -}}
app.kubernetes.io/name: closured
app.kubernetes.io/component: controller
{{- end }}

{{- /* Quantities as flags write them: cpu=10m,memory=64Mi. */}}
{{- define "closured.quantities" -}}
{{- $words := list }}
{{- range $name, $amount := . }}{{ $words = append $words (printf "%s=%v" $name $amount) }}{{ end }}
{{- join "," $words }}
{{- end }}

{{- /* A toleration as the flag writes it: key=value:effect. */}}
{{- define "closured.toleration" -}}
{{ .key }}{{ if ne (.operator | default "Equal") "Exists" }}={{ .value }}{{ end }}{{ with .effect }}:{{ . }}{{ end }}
{{- end }}
