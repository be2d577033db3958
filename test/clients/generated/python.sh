curl -sSf http://127.0.0.1:8080/openapi.json -o openapi.json
openapi-generator-cli generate -i openapi.json -g python -o client-python --additional-properties=packageName=facediffuser_client
PYTHONPATH=client-python python openapi_generator.py
