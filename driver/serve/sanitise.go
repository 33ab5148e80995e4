package serve

import (
	"encoding/json"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxKeys bounds how many keys of a map are logged.
const maxKeys = 64

// sanitise gives a request as it may be logged: a clone without secrets, with a
// redacted volume context. The request itself is in use and stays as it is.
func (i *interceptor) sanitise(req any) json.RawMessage {
	message, ok := req.(proto.Message)
	if !ok {
		return json.RawMessage(`null`)
	}
	clone := proto.Clone(message)
	i.clean(clone.ProtoReflect())
	text, err := protojson.Marshal(clone)
	if err != nil {
		return json.RawMessage(`"cannot be shown"`)
	}
	return text
}

// clean masks the fields of one message, and of the messages in it.
func (i *interceptor) clean(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case isSecret(field):
			m.Clear(field)
		case field.IsMap():
			i.cleanMap(value.Map())
		case field.IsList():
			i.cleanList(field, value.List())
		case field.Message() != nil:
			i.clean(value.Message())
		case field.Kind() == protoreflect.StringKind:
			m.Set(field, protoreflect.ValueOfString(i.bounded(value.String())))
		}
		return true
	})
}

// isSecret tells whether the CSI specification marks a field as secret.
func isSecret(field protoreflect.FieldDescriptor) bool {
	secret, ok := proto.GetExtension(field.Options(), csi.E_CsiSecret).(bool)
	return ok && secret
}

func (i *interceptor) cleanList(field protoreflect.FieldDescriptor, list protoreflect.List) {
	for at := range list.Len() {
		switch {
		case field.Message() != nil:
			i.clean(list.Get(at).Message())
		case field.Kind() == protoreflect.StringKind:
			list.Set(at, protoreflect.ValueOfString(i.bounded(list.Get(at).String())))
		}
	}
}

// cleanMap redacts a map of texts, such as the volume context: service account
// tokens travel there, and no option of the specification marks them.
func (i *interceptor) cleanMap(m protoreflect.Map) {
	context := map[string]string{}
	m.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		if text, ok := value.Interface().(string); ok && len(context) < maxKeys {
			context[key.String()] = text
		}
		return true
	})
	clean := i.redact.Context(context)
	var keys []protoreflect.MapKey
	m.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key)
		return true
	})
	for _, key := range keys {
		m.Clear(key)
	}
	for key, value := range clean {
		m.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(value))
	}
}
