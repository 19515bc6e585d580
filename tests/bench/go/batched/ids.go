// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"

	"github.com/google/uuid"
)

// sortIDs sorts, so that two consumers with the same messages do not deadlock.
func sortIDs(ids [][16]byte) {
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
}

// without are the messages that do not have one of these ids.
func without(messages []incoming, ids []uuid.UUID) []incoming {
	left := make([]incoming, 0, len(messages))
	for _, message := range messages {
		if !slices.Contains(ids, message.id) {
			left = append(left, message)
		}
	}
	return left
}
