{{- /* one setting as a flag takes it: lists by commas, whole numbers without an exponent */ -}}
{{- define "clustermesh.value" -}}
{{- if kindIs "slice" . }}{{ range $i, $one := . }}{{ if $i }},{{ end }}{{ include "clustermesh.value" $one }}{{ end }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- /* the flags of a program for its settings, by name */ -}}
{{- define "clustermesh.flags" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}
- {{ printf "--%s%s" (ternary "" "no-" $value) $name | quote }}
{{- else }}
- {{ printf "--%s=%s" $name (include "clustermesh.value" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}
