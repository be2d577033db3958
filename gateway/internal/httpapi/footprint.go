package httpapi

import (
	"reflect"
	"unsafe"
)

// footprint is the memory in bytes that v reaches, whole: every field of every
// type, also those that are added to a type later. What is reached twice counts
// once; closures and channels, which cannot be looked into, count as pointers.
func footprint(v any) int {
	value := reflect.ValueOf(v)
	return int(value.Type().Size()) + reached(value, map[unsafe.Pointer]bool{})
}

// reached is what v points to, without v itself.
func reached(v reflect.Value, seen map[unsafe.Pointer]bool) (n int) {
	if flat(v.Type()) {
		return 0
	}
	first := func(p unsafe.Pointer) bool {
		if p == nil || seen[p] {
			return false
		}
		seen[p] = true
		return true
	}
	switch v.Kind() {
	case reflect.String:
		if first(unsafe.Pointer(unsafe.StringData(v.String()))) {
			return v.Len()
		}
	case reflect.Pointer:
		if first(v.UnsafePointer()) {
			return int(v.Type().Elem().Size()) + reached(v.Elem(), seen)
		}
	case reflect.Slice:
		if !first(v.UnsafePointer()) {
			return 0
		}
		n = v.Cap() * int(v.Type().Elem().Size())
		if !flat(v.Type().Elem()) {
			for i := range v.Len() {
				n += reached(v.Index(i), seen)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			n += reached(v.Index(i), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += reached(v.Field(i), seen)
		}
	case reflect.Map:
		if first(v.UnsafePointer()) {
			for entry := v.MapRange(); entry.Next(); {
				for _, part := range []reflect.Value{entry.Key(), entry.Value()} {
					n += int(part.Type().Size()) + reached(part, seen)
				}
			}
		}
	case reflect.Interface:
		if !v.IsNil() {
			return int(v.Elem().Type().Size()) + reached(v.Elem(), seen)
		}
	}
	return n
}

// flat says whether values of a type point to nothing that can be looked into.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return false
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !flat(t.Field(i).Type) {
				return false
			}
		}
	}
	return true
}
