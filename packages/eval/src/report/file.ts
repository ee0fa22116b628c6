/** Writes and reads report files; a reader never sees half a file. */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import * as z from 'zod'
import { ReportError } from '../errors'
import { type Report, reportSchema, SCHEMA_VERSION } from './schema'

/** Writes a file in one piece: beside it first, then renamed. @throws ReportError when the place cannot be written. */
export async function writeAtomic(path: string, text: string): Promise<void> {
  const beside = `${path}.${process.pid}.partial`
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(beside, text)
    await rename(beside, path)
  } catch (cause) {
    await rm(beside, { force: true }).catch(() => undefined)
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
    throw new ReportError(
      `${path} cannot be written (${reason}).`,
      'Choose another folder with --out, or free some space.',
      { cause },
    )
  }
}

/** Checks, then writes a report as JSON. */
export async function writeReport(path: string, report: Report): Promise<void> {
  await writeAtomic(path, `${JSON.stringify(parseReport(report, 'the report to write'), null, 2)}\n`)
}

/** Reads and checks a report. @throws ReportError when it is missing, damaged or of another version. */
export async function readReport(path: string): Promise<Report> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (cause) {
    throw new ReportError(`${path} cannot be read.`, 'Check the path; kvloom compare writes report.json.', { cause })
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new ReportError(`${path} is not JSON.`, 'The file is damaged; make the report again.', { cause })
  }
  return parseReport(value, path)
}

/** @param where names the report in the message. @throws ReportError naming the first field that does not fit. */
export function parseReport(value: unknown, where: string): Report {
  const parsed = reportSchema.safeParse(value)
  if (parsed.success) return parsed.data
  const version = z.object({ schemaVersion: z.number() }).safeParse(value)
  if (version.success && version.data.schemaVersion !== SCHEMA_VERSION)
    throw new ReportError(
      `${where} has schema version ${version.data.schemaVersion}; this kvloom reads version ${SCHEMA_VERSION}.`,
      'Read it with the kvloom that wrote it, or make it again.',
    )
  const [issue] = parsed.error.issues
  throw new ReportError(
    `${where} is no kvloom report: ${issue ? `${issue.path.join('.') || 'the whole'}: ${issue.message}` : 'unknown reason'}.`,
    'Make it again with kvloom compare.',
    { cause: parsed.error },
  )
}
