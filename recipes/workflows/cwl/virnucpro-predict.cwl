#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: CommandLineTool
label: VirNucPro, which nucleotide sequences are viral
doc: |
  Says for every sequence of the inputs whether it is viral, and why not where it cannot say.
  The exit code 2 means that some inputs failed; they are listed in failed_files.txt.

baseCommand: [virnucpro, predict]
successCodes: [0, 2]

requirements:
  InlineJavascriptRequirement: {}
  EnvVarRequirement:
    envDef:
      OMP_NUM_THREADS: $("" + runtime.cores)
  ResourceRequirement:
    coresMin: 2
    ramMin: 4096

inputs:
  sequences:
    type: File[]
    doc: FASTA or FASTQ, plain or compressed
    inputBinding: {position: 1}
  model:
    type: string
    default: mini
    doc: mini, 300 or 500
    inputBinding: {prefix: --model}
  output_name:
    type: string
    default: virnucpro
    inputBinding: {prefix: --output-dir}
  min_length:
    type: int?
    inputBinding: {prefix: --min-length}
  conservative:
    type: boolean?
    inputBinding: {prefix: --conservative}

arguments: [--quiet]

outputs:
  directory:
    type: Directory
    outputBinding: {glob: $(inputs.output_name)}
  contigs:
    type: File
    outputBinding: {glob: $(inputs.output_name)/contigs.tsv}
  virus:
    type: File
    outputBinding: {glob: $(inputs.output_name)/virus.fna}
  report:
    type: File
    outputBinding: {glob: $(inputs.output_name)/report.html}
