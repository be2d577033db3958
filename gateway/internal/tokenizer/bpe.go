package tokenizer

import "container/heap"

// Byte-pair encoding (Sennrich et al., arXiv 1508.07909): a word is first one symbol a byte; the
// pair of neighbours that stands first in the list of merges becomes one symbol, the leftmost one
// where it occurs several times; and so on until no neighbours can be merged. A heap keeps this
// from being quadratic in the length of a word, which a prompt may choose.

// pair is two neighbouring symbols.
type pair struct{ left, right int32 }

// merge is what becomes of a pair. Lower ranks go first.
type merge struct{ rank, id int32 }

// wordEncoder is the work space of byte-pair encoding.
type wordEncoder struct {
	symbols    []symbol
	candidates candidates
}

// symbol is an element of a doubly linked list inside a slice; neighbours are −1 at the ends.
type symbol struct {
	id             int32 // −1 once merged into its left neighbour
	previous, next int
}

// candidate is a merge that was possible when it was found: symbols change afterwards.
type candidate struct {
	merge
	pair
	at int // index of the left symbol
}

// encode appends the ids of word, which is not empty, to ids.
func (w *wordEncoder) encode(t *Tokenizer, ids []int32, word string) []int32 {
	w.symbols, w.candidates = w.symbols[:0], w.candidates[:0]
	last := len(word) - 1
	for i := range len(word) {
		s := symbol{id: t.inner[word[i]], previous: i - 1, next: i + 1}
		if i == last {
			s.id, s.next = t.final[word[i]], -1
		}
		w.symbols = append(w.symbols, s)
	}
	for i := range last {
		w.consider(t, i)
	}
	heap.Init(&w.candidates)
	for len(w.candidates) > 0 {
		c := heap.Pop(&w.candidates).(candidate) //nolint:errcheck // the heap holds nothing else
		left := &w.symbols[c.at]
		if left.id != c.left || left.next < 0 || w.symbols[left.next].id != c.right {
			continue // one of the two has become part of another symbol
		}
		right := &w.symbols[left.next]
		left.id, left.next, right.id = c.id, right.next, -1
		if left.next >= 0 {
			w.symbols[left.next].previous = c.at
			w.push(t, c.at)
		}
		if left.previous >= 0 {
			w.push(t, left.previous)
		}
	}
	for i := 0; i >= 0; i = w.symbols[i].next {
		ids = append(ids, w.symbols[i].id)
	}
	return ids
}

// candidate is the merge of symbol i and the next one, if there is one.
func (w *wordEncoder) candidate(t *Tokenizer, i int) (candidate, bool) {
	p := pair{w.symbols[i].id, w.symbols[w.symbols[i].next].id}
	m, found := t.merges[p]
	return candidate{merge: m, pair: p, at: i}, found
}

// consider adds a candidate without keeping the heap in order, push keeping it.
func (w *wordEncoder) consider(t *Tokenizer, i int) {
	if c, found := w.candidate(t, i); found {
		w.candidates = append(w.candidates, c)
	}
}

func (w *wordEncoder) push(t *Tokenizer, i int) {
	if c, found := w.candidate(t, i); found {
		heap.Push(&w.candidates, c)
	}
}

// candidates is a heap (container/heap), the next merge on top.
type candidates []candidate

func (c candidates) Len() int      { return len(c) }
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c candidates) Less(i, j int) bool {
	return c[i].rank < c[j].rank || c[i].rank == c[j].rank && c[i].at < c[j].at
}
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) } //nolint:errcheck // as above
func (c *candidates) Pop() any {
	last := len(*c) - 1
	top := (*c)[last]
	*c = (*c)[:last]
	return top
}
