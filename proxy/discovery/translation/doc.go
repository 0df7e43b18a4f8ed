// Package translation turns standard xDS resources into the model that the sidecar's
// file has: listeners ([Listening]), rules ([Rules]) and clusters ([Cluster]). What
// comes over xDS is then checked and applied as what stands in the file.
//
// Of each message that it reads the package has a table (tables.go): which fields are
// honoured, with the setting of ours that they become, and which are accepted although
// they change nothing that a request could notice. A field that is set and is in
// neither list refuses the resource with a [resource.FieldError] that has the whole
// path to it. Nothing is ignored in silence, also not what a newer version of the API
// has added. The same tables are printed into FIELDS.md.
package translation

//go:generate go test -run TestTheDocumentHasTheTablesOfToday -update .
