cat > edits.jsonl <<'JSON'
{"text": "a woman <|image|> in the snow", "image": "examples/alice.png"}
{"text": "a woman <|image|> in the forest", "image": "examples/carol.png"}
JSON
aiperf profile --model mini --endpoint-type image-edit --url http://127.0.0.1:8080 \
  --input-file edits.jsonl --custom-dataset-type single_turn --tokenizer model_repository/mini/tokenizer \
  --request-count 4 --concurrency 2 --extra-inputs num_inference_steps:4 --ui none
