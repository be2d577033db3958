package app

import "testing"

// TestMessagesSpeakOfFlags: what the API says, in the words of the command line.
func TestMessagesSpeakOfFlags(t *testing.T) {
	for _, c := range []struct{ param, message, want string }{
		{"num_inference_steps", "num_inference_steps must be an integer from 1 to 200, not 0", "--steps must be an integer from 1 to 200, not 0"},
		{"start_merge_step", "final_step must be between start_merge_step (3) and 9", "--final-step must be between --start-merge-step (3) and 9"},
		{"n", "n must be an integer from 1 to 10, not 11", "-n must be an integer from 1 to 10, not 11"},
		{"partial_images", "partial_images needs stream=true", "--previews needs stream=true"},
		{"output_compression", "output_compression works on jpeg", "--output-compression works on jpeg"},
		{"eta", "eta is 0.5, but the scheduler pndm adds no noise", "--eta is 0.5, but the scheduler pndm adds no noise"},
		{"size", "size 512x512 is not served", "--size 512x512 is not served"},
		{"prompt", "prompt is empty; n of the seed and a size-8 quality", "prompt is empty; n of the seed and a size-8 quality"},
		{"negative_prompt", "the negative_prompt holds a marker", "the --negative-prompt holds a marker"},
	} {
		if got := inFlags(c.param, c.message); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
