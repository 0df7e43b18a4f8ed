package http2

import (
	"sync"

	"github.com/overhear-mesh/overhear/proxy/http1"
)

// page is what the messages of a wire are written on. A wire has one until it is closed,
// and then somebody else: with each request anew they would be most of its garbage.
type page struct {
	text   []byte           // to be read
	script http1.Transcript // of what is written
}

var pages = sync.Pool{New: func() any { return new(page) }}

// keepPage is how much of a message's memory is kept for the next one.
const keepPage = 16 << 10

// tear gives the page back: nothing is read any more, nor written.
func (w *wire) tear() {
	p := w.page
	w.page, w.rest = nil, nil
	if cap(p.text) > keepPage {
		p.text = nil
	}
	p.text = p.text[:0]
	p.script.Shrink(keepPage)
	pages.Put(p)
}
