package manifest

import (
	"encoding/binary"
	"fmt"
	"time"

	_ "time/tzdata" // a machine without a database of its own has this one
)

// ZoneRules returns the rules of a time zone as this machine knows them, TZif (RFC 9636): from ten years before the decade of a time to forty years
// after its beginning. Later on the last one holds, so they are read anew from time to time. Packages that decide are given them, since databases differ
// from machine to machine and change.
func ZoneRules(name string, now time.Time) ([]byte, error) {
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	decade := now.Year() / 10 * 10
	table := newZoneTable()
	at := time.Date(decade-10, 1, 1, 0, 0, 0, 0, time.UTC).In(zone)
	for until := time.Date(decade+40, 1, 1, 0, 0, 0, 0, time.UTC); at.Before(until); {
		if err := table.add(at); err != nil {
			return nil, fmt.Errorf("time zone %s: %w", name, err)
		}
		_, end := at.ZoneBounds()
		if end.IsZero() {
			break
		}
		if !end.After(at) {
			// On the last day of some leap years package time gives the day itself.
			end = at.Add(24 * time.Hour)
		}
		at = end
	}
	return table.encode(), nil
}

// zoneTable is what a TZif block holds: from when on which local time type holds.
type zoneTable struct {
	from  []int64
	which []byte
	types map[zoneType]byte
	// infos are the types in their order, names their designations.
	infos, names []byte
}

type zoneType struct {
	name   string
	offset int
	summer bool
}

func newZoneTable() *zoneTable { return &zoneTable{types: make(map[zoneType]byte)} }

// add notes what holds from a time on.
func (z *zoneTable) add(at time.Time) error {
	holds := zoneType{summer: at.IsDST()}
	holds.name, holds.offset = at.Zone()
	index, known := z.types[holds]
	if !known {
		if len(z.types) > 63 || len(z.names)+len(holds.name) > 255 {
			return fmt.Errorf("it has more than %d kinds of local time", len(z.types))
		}
		index = byte(len(z.types))
		z.types[holds] = index
		z.infos = binary.BigEndian.AppendUint32(z.infos, uint32(int32(holds.offset)))
		summer := byte(0)
		if holds.summer {
			summer = 1
		}
		z.infos = append(z.infos, summer, byte(len(z.names)))
		z.names = append(append(z.names, holds.name...), 0)
	}
	if n := len(z.which); n == 0 || z.which[n-1] != index {
		z.from, z.which = append(z.from, at.Unix()), append(z.which, index)
	}
	return nil
}

// encode writes version 2: an empty block of the first version, then ours, and no rule for the time after.
func (z *zoneTable) encode() []byte {
	out := appendZoneHeader(nil, 0, 1, 4)
	out = append(out, 0, 0, 0, 0, 0, 0, 'U', 'T', 'C', 0)
	out = appendZoneHeader(out, len(z.from), len(z.types), len(z.names))
	for _, from := range z.from {
		out = binary.BigEndian.AppendUint64(out, uint64(from))
	}
	out = append(append(append(out, z.which...), z.infos...), z.names...)
	return append(out, '\n', '\n')
}

func appendZoneHeader(out []byte, times, types, characters int) []byte {
	out = append(out, "TZif2"...)
	out = append(out, make([]byte, 15)...)
	for _, count := range []int{0, 0, 0, times, types, characters} {
		out = binary.BigEndian.AppendUint32(out, uint32(count))
	}
	return out
}
