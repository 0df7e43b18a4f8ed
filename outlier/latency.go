package outlier

import "math"
import "time"

// The latency histogram: 8 buckets an octave from 0.1 ms, 20 octaves.
const (
	histBuckets = 160
	histPerOct  = 8
	histFirst   = 100 * time.Microsecond
)

// bucket is where a latency is counted. Bucket i holds latencies below
// BucketUpper(i).
func bucket(latency time.Duration) int {
	if latency <= histFirst {
		return 0
	}
	i := int(histPerOct * math.Log2(float64(latency)/float64(histFirst)))
	return min(i, histBuckets-1)
}

// BucketUpper is the upper edge of bucket i of a [Summary]'s latency
// histogram: 8 buckets an octave, the first from 0.1 ms.
func BucketUpper(i int) time.Duration {
	return time.Duration(float64(histFirst) * math.Exp2(float64(i+1)/histPerOct))
}
