// Package gen makes the generated files of api/v1alpha1, its CRD in deploy among
// them, and checks that they are current. It is a module of its own, so that the generator's requirements
// stay out of the product's.
//
//	cd api/gen && go generate ./...
//
// Its test generates into a folder of its own and compares. Both need no
// network but the Go module proxy. Nothing runs in parallel, nothing is kept.
package gen

//go:generate ./generate ../..
